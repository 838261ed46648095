// The loss for rows of many classes: one row at a time, sixteen (or eight) neighbouring classes in the lanes.
//
// A row is cut at fixed edges into blocks that fit the first cache. Each block is read for its largest logits
// and again for its sums, in the frame of its own largest logits; the sums are then brought into the row's
// frame and added in double, and the gradient follows from the stored exponentials. So the logits come from
// memory once however long a row is, threads may share its blocks, and the order of all additions depends on
// the number of classes alone.
#pragma once

#include "../kernel_table.hpp"
#include "columns.hpp"
#include "hessian.hpp"
#include "kd_plan.hpp"
#include "kd_terms.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
struct RowInput {
  const T *s, *t;
  std::int64_t label;  // -1: none
  std::int64_t ahead;  // from what is read now to what will be read next
};

// What is known of one block of a row.
template <class T>
struct Block {
  // After the first reading: its largest logits, and how its terms come about.
  T ms, mt;
  int power;
  bool wide;  // not all are in reach, and some may have become 0
  // After the second: the sums of its terms, and its frame in the row's (see RowSums).
  Sums<double> sums;
  double wt = 1, ws = 1, w1 = 1, shift = 0, lean = 0;
  bool close = true;   // wt and ws are within a factor of e
  bool empty = false;  // far below the others in both rows, as masked blocks are: both weights are 0
  // After the third.
  double kl = 0;
};

// A row's working memory: what is known of each block, and the terms of its groups.
template <class T>
struct RowScratch {
  Block<T>* blocks;
  T* terms;
  std::int64_t apart;
  T *p1, *p;  // for the Hessian

  // Elements, for whole Lanes.
  static std::int64_t of_classes(std::int64_t classes) {
    constexpr std::int64_t n = Lanes<T>::kCount;
    return (classes + n - 1) / n * n;
  }
  static std::int64_t of_blocks(std::int64_t classes) {
    const std::int64_t bytes = block_count(classes) * static_cast<std::int64_t>(sizeof(Block<T>));
    return (bytes + 63) / 64 * 64 / static_cast<std::int64_t>(sizeof(T));
  }
  static std::int64_t size(std::int64_t classes) { return of_blocks(classes) + 5 * of_classes(classes); }
  RowScratch(T* memory, std::int64_t classes)
      : blocks(reinterpret_cast<Block<T>*>(memory)),
        terms(memory + of_blocks(classes)),
        apart(of_classes(classes)),
        p1(terms + 3 * apart),
        p(p1 + apart) {}
};

// A block's groups. The last one may reach back over classes that an earlier one has; its first `stale`
// classes are those.
template <class T>
struct BlockGroups {
  static constexpr std::int64_t kGroup = Groups<T>::kSize;
  Groups<T> whole;  // all that do not reach back
  Groups<T> last;   // the one that does, if there is one
  std::int64_t stale = 0;

  BlockGroups(const RowInput<T>& row, Span block, const RowScratch<T>& scratch) {
    const std::int64_t count = (block.end - block.begin) / kGroup;
    whole = {row.s + block.begin, row.t + block.begin, scratch.terms + block.begin, scratch.apart, count};
    const std::int64_t begin = block.end - kGroup, fresh = block.begin + count * kGroup;
    last = {row.s + begin, row.t + begin, scratch.terms + fresh, scratch.apart, fresh < block.end};
    stale = fresh - begin;
  }
  // The group that has the class at this place in the block, and which of its lanes it is.
  Groups<T> group_of(std::int64_t place) const {
    return place < whole.count * kGroup ? whole.from(place / kGroup, 1) : last;
  }
  std::int64_t lane_of(std::int64_t place) const {
    const std::int64_t within = place - whole.count * kGroup;
    return within < 0 ? place % kGroup : stale + within;
  }
};

// ---- First reading: the largest logits, and how far down the others go
template <bool Soft, class T>
KDLOSS_INLINE Extent<T> extent(const RowInput<T>& row, Span block) {
  Extent<Lanes<T>> lanes;
  for_columns<T>(block, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA {
    lanes.template add<Soft>(load(row.s + c), load((Soft ? row.t : row.s) + c));
  });
  return {largest(lanes.ms), largest(lanes.mt), smallest(lanes.lowest_s), smallest(lanes.lowest_t)};
}

// Whether each probability of a row comes out as its Hessian wants it: a normal number, with all its digits.
template <class T>
bool probabilities_are_whole(const RowInput<T>& row, std::int64_t classes, const RowPlan& plan,
                             const Temperature<T>& temperature) {
  const Span all{0, classes};
  const Extent<T> x = plan.soft ? extent<true>(row, all) : extent<false>(row, all);
  const T spread_s = x.spread_s(), spread_t = x.spread_t(), reach = Reach<T>::kSoftened * temperature.tau;
  const T rounded = spread_t + 2 * (spread_s < spread_t ? spread_t : spread_s);
  const T unit = plan.hard && temperature.power > 0 ? 1 : temperature.tau;
  return (!plan.hard || spread_s <= Reach<T>::kStudent) &&
         (!plan.soft || (spread_s <= reach && spread_t <= reach && rounded <= Reach<T>::kWhole * unit));
}

// ---- Second reading: the sums
// Adds the terms of all groups to the sums, but for e1 of the given class. What will be read next lies so far
// ahead; grad, where the first group's gradient will be written, may be null.
template <bool Hard, bool Soft, int Power, Way way, class T>
__attribute__((noinline)) void add_groups(const Groups<T>& given, const Frame<T>& given_frame,
                                          std::int64_t label, std::int64_t ahead, const T* grad,
                                          Sums<Lanes<T>>& to) {
  using L = Lanes<T>;
  const Groups<T> groups = given;
  const Frame<T> frame = given_frame;
  Sums<L> run;
  Totals<L> total;
  for_groups_begun_ahead<T>(
      groups.count,
      [&](std::int64_t i) KDLOSS_INLINE_LAMBDA { return begin_groups<Soft, way>(groups, i, frame); },
      [&](const Reduced<T>& begun, std::int64_t i) KDLOSS_INLINE_LAMBDA {
        prefetch(groups.s + i, ahead);
        if constexpr (Soft) prefetch(groups.t + i, ahead);
        if (grad != nullptr) prefetch<true>(grad, i);
        Terms<T> x = finish_groups<Hard, Soft, Power, way>(begun, groups, i, frame, L(0), L(0) == L(0));
        if (Hard && __builtin_expect(i <= label && label < i + L::kCount, 0))
          x.e1 = where(lane_index<T>() == L(static_cast<T>(label - i)), L(0), x.e1);
        if (__builtin_expect(run_ends(i / L::kCount), 0)) total.add(run), run = Sums<L>();
        add<Hard, Soft>(run, x);
      });
  to = total.with(run);  // not the result: GCC would build that in memory, addition by addition
}

// False where the gaps need their rounding errors and were computed without.
template <bool Hard, bool Soft, int Power, Way way, class T>
bool add_block(const RowInput<T>& row, const T* grad, Span span, const Frame<T>& frame,
               const RowScratch<T>& scratch, Block<T>& block) {
  using L = Lanes<T>;
  const BlockGroups<T> groups(row, span, scratch);
  const std::int64_t place = row.label - span.begin;
  const std::int64_t label = Hard && place >= 0 && place < span.end - span.begin ? place : -1;
  const std::int64_t label_lane = label < 0 ? -1 : groups.lane_of(label);
  Sums<L> sums, last;
  if (groups.last.count > 0) {
    Terms<T> x = finish_groups<Hard, Soft, Power, way>(begin_groups<Soft, way>(groups.last, 0, frame),
                                                       groups.last, 0, frame, L(0), L(0) == L(0));
    if constexpr (Soft)
      x.et = only_fresh(x.et, groups.stale), x.es = only_fresh(x.es, groups.stale),
      x.de = only_fresh(x.de, groups.stale);
    if constexpr (Hard) {
      x.e1 = only_fresh(x.e1, groups.stale);
      if (label >= groups.whole.count * Groups<T>::kSize)
        x.e1 = where(lane_index<T>() == L(static_cast<T>(label_lane)), L(0), x.e1);
    }
    add<Hard, Soft>(last, x);
  }
  add_groups<Hard, Soft, Power, way>(groups.whole, frame, label, row.ahead,
                                     grad == nullptr ? nullptr : grad + span.begin, sums);
  sums.add(last);
  if constexpr (Soft) {
    const T zt = sum(sums.zt), moved = sum(sums.moved);
    if (way == kPlain && any(~plain_gap_is_fit(frame, L(moved), L(zt)))) return false;
    block.sums.zt = zt, block.sums.zs = sum(sums.zs), block.sums.d = sum(sums.d), block.sums.moved = moved;
  }
  if constexpr (Hard) {
    block.sums.others = sum(sums.others);
    block.sums.label = label < 0 ? T(0) : lane(stored_e1<Soft, Power>(groups.group_of(label), 0), label_lane);
  }
  return true;
}

// ---- The row: its sums, from those of its blocks
// et, es and e1 of a block are those of the row after multiplication with wt, ws and w1, and its gaps after
// addition of shift; lean = ws - wt. So p = A es and q = B et with A = ws / Zs and B = wt / Zt, and
//
//     p - q = B de + (A - B) es      A - B = lean / Zs - B D / Zs
template <bool Hard, bool Soft, class T>
struct RowSums {
  using V = Vector<double>;
  Block<T>* const blocks;
  const std::int64_t count;
  const Temperature<double>& temperature;
  double ms, mt;
  bool in_reach = true;  // the blocks' frames are, of each other, but for those of which nothing is left
  bool wide = false;
  Sums<double> sums;
  double inverse_zs = 0, inverse_zt = 0;

  RowSums(Block<T>* blocks_, std::int64_t count_, const Temperature<double>& temperature_)
      : blocks(blocks_), count(count_), temperature(temperature_), ms(blocks[0].ms), mt(blocks[0].mt) {
    for (std::int64_t i = 0; i < count; ++i) {
      const double s = blocks[i].ms, t = blocks[i].mt;
      ms = ms < s ? s : ms, mt = mt < t ? t : mt;
      wide |= blocks[i].wide;
    }
    const double reach = static_cast<double>(Reach<T>::kSoftened) * temperature.tau;
    for (std::int64_t i = 0; Soft && i < count; ++i) {
      const bool s_is_low = !(ms - blocks[i].ms <= reach), t_is_low = !(mt - blocks[i].mt <= reach);
      blocks[i].empty = s_is_low && t_is_low && ms > blocks[i].ms && mt > blocks[i].mt;
      in_reach &= blocks[i].empty || !(s_is_low || t_is_low);
    }
  }

  void find_frame(Block<T>& block) const {
    const V below_s(static_cast<double>(block.ms) - ms), below_t(static_cast<double>(block.mt) - mt);
    if constexpr (Hard) block.w1 = first(exp_to_zero(below_s, V(kLog2E), V(zero_at<double>(kLog2E, 0))));
    if (block.empty) block.ws = block.wt = 0;
    if (Soft && !block.empty) {
      const V ws = exp_normal(below_s, V(temperature.k)), wt = exp_normal(below_t, V(temperature.k));
      const V shift = logit_gap(V(block.ms), V(block.mt), Frame<double, 1>(V(ms), V(mt), temperature));
      const V v = shift * V(temperature.inverse), expm1 = fma(v * v, expm1_remainder_over_square(v), v);
      block.ws = first(ws), block.wt = first(wt), block.shift = first(shift);
      block.close = any(abs(v) < V(1.0));
      block.lean = block.close ? first(wt * expm1) : block.ws - block.wt;
    }
  }

  void add_blocks() {
    for (std::int64_t i = 0; i < count; ++i) {
      Block<T>& block = blocks[i];
      const Sums<double>& x = block.sums;
      if (count > 1) find_frame(block);
      if constexpr (Soft) {
        sums.zt += block.wt * x.zt, sums.zs += block.ws * x.zs;
        // Where lean is close to -wt the first form would leave hardly a digit.
        sums.d += block.close ? block.wt * x.d + block.lean * x.zs : block.ws * x.zs - block.wt * x.zt;
        sums.moved += block.wt * (block.shift * x.zt + x.moved);
      }
      if constexpr (Hard) sums.others += block.w1 * x.others, sums.label += block.w1 * x.label;
    }
    if constexpr (Soft) inverse_zs = 1 / sums.zs, inverse_zt = 1 / sums.zt;
  }
  double a(const Block<T>& block) const { return block.ws * inverse_zs; }
  double b(const Block<T>& block) const { return block.wt * inverse_zt; }
  double a_minus_b(const Block<T>& block) const { return (block.lean - b(block) * sums.d) * inverse_zs; }
  double tau_log_ratio(const Block<T>& block, double log_ratio) const {
    return block.shift - log_ratio * temperature.tau;
  }
};

// ---- Third reading: the divergence of a row that is near its teacher, term by term
template <class T>
double near_block(const BlockGroups<T>& groups, const Frame<T>& frame, const NearFactors<T>& factor,
                  bool wide) {
  const Mask<T> in_reach = Lanes<T>(T(wide)) == Lanes<T>(0);
  const Lanes<T> whole = near_terms(groups.whole, frame, factor, in_reach);
  return sum(whole + only_fresh(near_terms(groups.last, frame, factor, in_reach), groups.stale));
}

// Runs body(span, block) for every block of a row: on this thread, or on several where the call asks for it.
template <class T, class Body>
void for_row(const KdCall<T>& call, const RowScratch<T>& scratch, Body&& body) {
  const std::int64_t count = block_count(call.classes);
  if (call.split_columns == nullptr) {
    for (std::int64_t i = 0; i < count; ++i) body(block_at(i, count, call.classes), scratch.blocks[i]);
    return;
  }
  constexpr std::int64_t kShare = 8;  // blocks that are worth waking a thread for
  struct Context {
    Body& body;
    std::int64_t count, classes;
    Block<T>* blocks;
  } context{body, count, call.classes, scratch.blocks};
  call.split_columns((count + kShare - 1) / kShare,
                     [](void* p, std::int64_t share) {
                       const Context& c = *static_cast<Context*>(p);
                       for (std::int64_t i = share * kShare; i < c.count && i < (share + 1) * kShare; ++i)
                         c.body(block_at(i, c.count, c.classes), c.blocks[i]);
                     },
                     &context, call.threads);
}

// Of a block that is all masked, any frame will do.
template <class T>
Frame<T> frame_of(const Block<T>& block, const Temperature<T>& temperature) {
  const auto finite = [](T m) { return Lanes<T>(m == -infinity<T>() ? T(0) : m); };
  return {finite(block.ms), finite(block.mt), temperature};
}

// tau^2 KL of a row, whose blocks' sums are known. False where it is beyond the plain path's reach.
template <bool Hard, class T>
bool soft_loss(const KdCall<T>& call, const RowInput<T>& input, const RowSums<Hard, true, T>& row,
               const Temperature<T>& temperature, const RowScratch<T>& scratch, double& soft) {
  using V = Vector<double>;
  using L = Lanes<T>;
  const Temperature<double>& exact = row.temperature;
  const Sums<V> sums{V(row.sums.zt), V(row.sums.zs), V(row.sums.d), V(row.sums.moved), V(0.0), V(0.0)};
  const SoftResult<double, 1> result = soft_result(sums, V(exact.inverse));
  const double log_ratio = first(result.log_ratio);
  soft = first(result.kl) * exact.tau * exact.tau;
  if (!(soft < infinity<double>())) return false;  // NaN, or beyond the type's range
  double mean_abs = 0, mean_square = 0;            // of log(A / B) under q, and of its square times tau^2
  for (std::int64_t i = 0; i < row.count; ++i) {
    const Block<T>& block = row.blocks[i];
    const double q = row.b(block) * block.sums.zt, x = row.tau_log_ratio(block, log_ratio);
    mean_abs += q * (x < 0 ? -x : x) * exact.inverse;
    mean_square += q * x * x;
  }
  if (!any(~kl_is_far(result.kl, V(mean_abs)))) return true;
  for_row(call, scratch, [&](Span span, Block<T>& block) {
    const NearFactors<T> factor{L(static_cast<T>(row.a(block))), L(static_cast<T>(row.b(block))),
                                L(static_cast<T>(row.tau_log_ratio(block, log_ratio))), L(temperature.tau)};
    block.kl =
        near_block(BlockGroups<T>(input, span, scratch), frame_of(block, temperature), factor, block.wide);
  });
  soft = 0;
  for (std::int64_t i = 0; i < row.count; ++i) soft += row.blocks[i].kl;
  if (!row.wide && !any(~are_equal(sums, V(soft)))) return true;
  return !any(~near_kl_is_fit(V(soft), V(mean_square), V(exact.tau), static_cast<double>(Reach<T>::kTail)));
}

// The losses of one row and, where grad is not null, its gradient, and the Hessian where hess is not null
// too. False, with nothing written, for a row beyond the plain path's reach.
template <bool Hard, bool Soft, class T>
bool kd_row(const KdCall<T>& call, const RowInput<T>& input, T* grad, T* hess,
            const Temperature<T>& temperature, const Temperature<double>& exact, const RowPlan& plan,
            const RowScratch<T>& scratch, RowParts& loss) {
  using V = Vector<double>;
  using L = Lanes<T>;
  for_row(call, scratch, [&](Span span, Block<T>& block) {
    const Extent<T> x = extent<Soft>(input, span);
    const T spread_s = x.spread_s(), spread_t = x.spread_t(), reach = Reach<T>::kSoftened * temperature.tau;
    const bool in_reach = Soft ? spread_s <= reach && spread_t <= reach : spread_s <= Reach<T>::kStudent;
    const bool powers = in_reach && spread_t <= Reach<T>::kTeacher && spread_s <= Reach<T>::kStudent;
    block = Block<T>();
    block.ms = x.ms, block.mt = x.mt, block.power = powers ? temperature.power : 0, block.wide = !in_reach;
    const Frame<T> frame = frame_of(block, temperature);
    if (!in_reach) {
      add_block<Hard, Soft, 0, kWide>(input, grad, span, frame, scratch, block);
      return;
    }
    const bool plain_gaps = !any(~plain_gap_is_in_reach(frame));
    with_power<Hard && Soft>(block.power, [&](auto power) {
      const bool done =
          plain_gaps && add_block<Hard, Soft, power.value, kPlain>(input, grad, span, frame, scratch, block);
      if (!done) add_block<Hard, Soft, power.value, kExact>(input, grad, span, frame, scratch, block);
    });
  });

  RowSums<Hard, Soft, T> row(scratch.blocks, block_count(call.classes), exact);
  if (!row.in_reach) return false;
  row.add_blocks();
  const double total = row.sums.others + row.sums.label;
  if constexpr (Hard) {
    Sums<V> sums;
    sums.others = V(row.sums.others), sums.label = V(row.sums.label);
    loss.hard = first(hard_result(sums, V(row.ms - static_cast<double>(input.s[input.label]))));
    if (!(loss.hard >= static_cast<double>(Reach<T>::kTail))) return false;
  }
  if constexpr (Soft)
    if (!soft_loss(call, input, row, temperature, scratch, loss.soft)) return false;
  if (grad == nullptr) return true;

  const double hard_weight = Hard ? plan.hard_slope() * call.grad_scale / total : 0;
  const double soft_weight = plan.soft_weight * call.grad_scale * exact.tau;
  for_row(call, scratch, [&](Span span, Block<T>& block) {
    const double de = Soft ? soft_weight * row.b(block) : 0,
                 es = Soft ? soft_weight * row.a_minus_b(block) : 0;
    const double e1 = hard_weight * block.w1;
    const GradientFactors<T> factor{L(static_cast<T>(e1)), L(static_cast<T>(de)), L(static_cast<T>(es))};
    const BlockGroups<T> groups(input, span, scratch);
    with_power<Hard && Soft>(block.power, [&](auto power) {
      write_terms<false, Hard, Soft, power.value>(groups.whole, factor, L(0), L(0), grad + span.begin);
      write_terms<false, Hard, Soft, power.value>(groups.last, factor, L(0), L(0),
                                                  grad + span.end - Groups<T>::kSize);
    });
    const std::int64_t label = input.label - span.begin;
    if (!Hard || label < 0 || label >= span.end - span.begin) return;
    double at_label = hard_weight * (plan.keeps_p1 ? row.sums.label : -row.sums.others);
    if constexpr (Soft) {
      const T* const terms = groups.group_of(label).terms + groups.lane_of(label);
      at_label += de * static_cast<double>(terms[scratch.apart]) + es * static_cast<double>(terms[0]);
    }
    grad[input.label] = static_cast<T>(at_label);
  });
  if (hess == nullptr) return true;
  for_row(call, scratch, [&](Span span, Block<T>& block) {
    const L e1(static_cast<T>(block.w1 / total)), es(static_cast<T>(block.ws * row.inverse_zs));
    const BlockGroups<T> groups(input, span, scratch);
    with_power<Hard && Soft>(block.power, [&](auto power) {
      const auto write = [&](const Groups<T>& g, std::int64_t c) {
        write_probabilities<Hard, Soft, power.value>(g, e1, es, scratch.p1 + c, scratch.p + c);
      };
      write(groups.whole, span.begin), write(groups.last, span.end - Groups<T>::kSize);
    });
  });
  hessian_row(Hard ? scratch.p1 : nullptr, Soft ? scratch.p : nullptr, call.classes,
              plan.hard_slope() * call.hess_scale, plan.soft_weight * call.hess_scale, hess);
  return true;
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
