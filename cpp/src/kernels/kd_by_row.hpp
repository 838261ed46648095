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

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

template <class T>
struct RowInput {
  const T *s, *t;
  std::int64_t label;  // -1: none
  std::int64_t ahead;  // from what is read now to what will be read next
};

// A row's working memory: the terms of its groups, and what is known of each block.
template <class T>
class RowScratch {
 public:
  // clang-format off
  enum Field {
    kMs, kMt, kPower, kWideTerms,           // after the first reading
    kZt, kZs, kD, kMoved, kOthers, kLabel,  // the second: Sums
    kWt, kWs, kW1, kShift, kLean,           // the block's frame in the row's: see Row
    kKl,                                    // the third
    kFields
  };
  // clang-format on
  T* terms;
  std::int64_t apart;
  T *p1, *p;  // for the Hessian

  static std::int64_t padded(std::int64_t blocks) {
    constexpr std::int64_t n = Lanes<double>::kCount;
    return (blocks + n - 1) / n * n;
  }
  static std::int64_t whole_groups(std::int64_t classes) {
    constexpr std::int64_t n = Lanes<T>::kCount;
    return (classes + n - 1) / n * n;
  }
  static std::int64_t size(std::int64_t classes) {
    const std::int64_t doubles = kFields * padded(block_count(classes));
    return 5 * whole_groups(classes) + doubles * static_cast<std::int64_t>(sizeof(double) / sizeof(T));
  }
  RowScratch(double* memory, std::int64_t classes)
      : apart(whole_groups(classes)), blocks_(memory), padded_(padded(block_count(classes))) {
    terms = reinterpret_cast<T*>(memory + kFields * padded_);
    p1 = terms + 3 * apart, p = p1 + apart;
    for (std::int64_t i = 0; i < kFields * padded_; ++i) blocks_[i] = 0;
  }
  double* operator[](Field field) const { return blocks_ + field * padded_; }

 private:
  double* blocks_;
  std::int64_t padded_;
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
template <class T>
struct Extent {
  T ms, mt, lowest_s, lowest_t;
};
template <bool Soft, class T>
KDLOSS_INLINE Extent<T> extent(const RowInput<T>& row, Span block) {
  using L = Lanes<T>;
  L ms(-infinity<T>()), mt = ms, lowest_s(infinity<T>()), lowest_t = lowest_s;
  for_columns<T>(block, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA {
    const L s = load(row.s + c);
    ms = max(s, ms);
    lowest_s = min(s, lowest_s);
    if constexpr (Soft) {
      const L t = load(row.t + c);
      mt = max(t, mt);
      lowest_t = min(t, lowest_t);
    }
  });
  return {largest(ms), largest(mt), smallest(lowest_s), smallest(lowest_t)};
}

// Whether no probability of a row is below the type's normal numbers, as its Hessian wants it.
template <class T>
bool probabilities_are_whole(const RowInput<T>& row, std::int64_t classes, const RowPlan& plan, T tau) {
  const Span all{0, classes};
  const Extent<T> x = plan.soft ? extent<true>(row, all) : extent<false>(row, all);
  const T spread = x.ms - x.lowest_s, reach = Reach<T>::kSoftened * tau;
  return (!plan.hard || spread <= Reach<T>::kStudent) &&
         (!plan.soft || (spread <= reach && x.mt - x.lowest_t <= reach));
}

// ---- Second reading: the sums
// What will be read and written soon, and where: for the caches.
template <class T>
struct Soon {
  std::int64_t logits;  // from what is read now
  const T* grad;        // of the first group, or null
};

// Adds the terms of all groups to the sums, but for e1 of the given class.
template <bool Hard, bool Soft, int Power, Way way, class T>
__attribute__((noinline)) void add_groups(const Groups<T>& given, const Frame<T>& given_frame,
                                          std::int64_t label, Soon<T> soon, Sums<Lanes<T>>& to) {
  const Groups<T> groups = given;
  const Frame<T> frame = given_frame;
  Sums<Lanes<T>> sums;
  for_groups<T>(groups.count, [&](auto parts, std::int64_t i) KDLOSS_INLINE_LAMBDA {
    constexpr int P = parts.value;
    using L = Lanes<T, P>;
    for (std::int64_t line = i; line < i + L::kCount; line += Groups<T>::kSize) {
      prefetch(groups.s + line, soon.logits);
      if constexpr (Soft) prefetch(groups.t + line, soon.logits);
      if (soon.grad != nullptr) prefetch_for_writing(soon.grad, line);
    }
    Terms<T, P> x = group_terms<Hard, Soft, Power, way>(groups, i, repeated<P>(frame), L(0), L(0) == L(0));
    if (Hard && __builtin_expect(i <= label && label < i + L::kCount, 0))
      x.e1 = where(lane_index<T, P>() == L(static_cast<T>(label - i)), L(0), x.e1);
    for (int j = 0; j < P / kParts; ++j) add<Hard, Soft>(sums, section(x, j));
  });
  to = sums;  // not the result: GCC would build that in memory, addition by addition
}

// False where the gaps need their rounding errors and were computed without.
template <bool Hard, bool Soft, int Power, Way way, class T>
bool add_block(const RowInput<T>& row, const T* grad, Span block, const Frame<T>& frame,
               const RowScratch<T>& scratch, std::int64_t i) {
  using L = Lanes<T>;
  using Field = RowScratch<T>;
  const BlockGroups<T> groups(row, block, scratch);
  const std::int64_t place = row.label - block.begin;
  const std::int64_t label = Hard && place >= 0 && place < block.end - block.begin ? place : -1;
  const std::int64_t label_lane = label < 0 ? -1 : groups.lane_of(label);
  Sums<L> sums, last;
  if (groups.last.count > 0) {
    Terms<T> x = group_terms<Hard, Soft, Power, way>(groups.last, 0, frame, L(0), L(0) == L(0));
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
  add_groups<Hard, Soft, Power, way>(groups.whole, frame, label,
                                     {row.ahead, grad == nullptr ? nullptr : grad + block.begin}, sums);
  sums.add(last);
  if constexpr (Soft) {
    const T zt = sum(sums.zt), moved = sum(sums.moved);
    if (way == kPlain && any(~plain_gap_is_fit(frame.dm.value, L(moved), L(zt)))) return false;
    scratch[Field::kZt][i] = zt, scratch[Field::kZs][i] = sum(sums.zs);
    scratch[Field::kD][i] = sum(sums.d), scratch[Field::kMoved][i] = moved;
  }
  if constexpr (Hard) {
    scratch[Field::kOthers][i] = sum(sums.others);
    scratch[Field::kLabel][i] =
        label < 0 ? T(0) : lane(stored_e1<Soft, Power>(groups.group_of(label), 0), label_lane);
  }
  return true;
}

// ---- The row: its sums, from those of its blocks
// et, es and e1 of a block are those of the row after multiplication with wt, ws and w1, and its gaps after
// addition of shift; lean = ws - wt. So p = A es and q = B et with A = ws / Zs and B = wt / Zt, and
//
//     p - q = B de + (A - B) es      A - B = lean / Zs - B D / Zs
template <bool Hard, bool Soft, class T>
struct Row {
  using V = Vector<double>;
  using Field = RowScratch<T>;
  const RowScratch<T>& scratch;
  const Temperature<double>& temperature;
  std::int64_t blocks;
  double ms = -infinity<double>(), mt = ms;
  bool plain = true;  // the blocks' frames are within reach of each other
  bool wide = false;  // some terms are not in reach, and may have become 0
  Sums<V> sums;       // the same in all lanes
  double inverse_zs = 0, inverse_zt = 0;

  Row(const RowScratch<T>& scratch_, const Temperature<double>& temperature_, std::int64_t classes)
      : scratch(scratch_), temperature(temperature_), blocks(block_count(classes)) {
    double least_ms = infinity<double>(), least_mt = least_ms;
    for (std::int64_t i = 0; i < blocks; ++i) {
      const double s = scratch[Field::kMs][i], t = scratch[Field::kMt][i];
      ms = ms < s ? s : ms, mt = mt < t ? t : mt;
      wide |= scratch[Field::kWideTerms][i] != 0;
      least_ms = s < least_ms ? s : least_ms, least_mt = t < least_mt ? t : least_mt;
    }
    const double reach = static_cast<double>(Reach<T>::kSoftened) * temperature.tau;
    if (Soft) plain = ms - least_ms <= reach && mt - least_mt <= reach;
  }

  void find_weights() const {
    if (blocks == 1) {
      scratch[Field::kWt][0] = scratch[Field::kWs][0] = scratch[Field::kW1][0] = 1;
      scratch[Field::kShift][0] = scratch[Field::kLean][0] = 0;
      return;
    }
    for (std::int64_t i = blocks; i < RowScratch<T>::padded(blocks); ++i)
      scratch[Field::kMs][i] = ms, scratch[Field::kMt][i] = mt;
    for (std::int64_t i = 0; i < blocks; i += V::kCount) {
      const V block_ms = load<1>(scratch[Field::kMs] + i), block_mt = load<1>(scratch[Field::kMt] + i);
      if constexpr (Hard)
        store(scratch[Field::kW1] + i,
              exp_to_zero(block_ms - V(ms), V(kLog2E), V(zero_at<double>(kLog2E, 0))));
      if constexpr (Soft) {
        const V ws = exp_normal(block_ms - V(ms), V(temperature.k));
        const V wt = exp_normal(block_mt - V(mt), V(temperature.k));
        const V shift = logit_gap(block_ms, block_mt, Frame<double, 1>(V(ms), V(mt), temperature));
        const V v = shift * V(temperature.inverse), expm1 = fma(v * v, expm1_remainder_over_square(v), v);
        store(scratch[Field::kWs] + i, ws), store(scratch[Field::kWt] + i, wt);
        store(scratch[Field::kShift] + i, shift);
        store(scratch[Field::kLean] + i, where(abs(v) < V(1.0), wt * expm1, ws - wt));
      }
    }
  }

  void add_blocks() {
    find_weights();
    Sums<double> total;
    for (std::int64_t i = 0; i < blocks; ++i) {
      const auto field = [&](auto which) { return scratch[which][i]; };
      if constexpr (Soft) {
        const double wt = field(Field::kWt), zt = field(Field::kZt), zs = field(Field::kZs);
        total.zt += wt * zt, total.zs += field(Field::kWs) * zs;
        total.d += wt * field(Field::kD) + field(Field::kLean) * zs;
        total.moved += wt * (field(Field::kShift) * zt + field(Field::kMoved));
      }
      if constexpr (Hard) {
        total.others += field(Field::kW1) * field(Field::kOthers);
        total.label += field(Field::kW1) * field(Field::kLabel);
      }
    }
    sums = {V(total.zt), V(total.zs), V(total.d), V(total.moved), V(total.others), V(total.label)};
    if constexpr (Soft) inverse_zs = 1 / total.zs, inverse_zt = 1 / total.zt;
  }
  double b(std::int64_t i) const { return scratch[Field::kWt][i] * inverse_zt; }
  double a_minus_b(std::int64_t i) const {
    return (scratch[Field::kLean][i] - b(i) * first(sums.d)) * inverse_zs;
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

// Runs body(i, block) for every block of a row: on this thread, or on several where the call asks for it.
template <class T, class Body>
void for_row(const KdCall<T>& call, Body&& body) {
  const std::int64_t count = block_count(call.classes);
  if (call.split_columns == nullptr) {
    for (std::int64_t i = 0; i < count; ++i) body(i, block_at(i, call.classes));
    return;
  }
  constexpr std::int64_t kShare = 8;  // blocks that are worth waking a thread for
  struct Context {
    Body& body;
    std::int64_t count, classes;
  } context{body, count, call.classes};
  call.split_columns((count + kShare - 1) / kShare,
                     [](void* p, std::int64_t share) {
                       const Context& c = *static_cast<Context*>(p);
                       for (std::int64_t i = share * kShare; i < c.count && i < (share + 1) * kShare; ++i)
                         c.body(i, block_at(i, c.classes));
                     },
                     &context, call.threads);
}

// tau^2 KL of a row, whose blocks' sums are known. False where it is beyond the plain path's reach.
template <bool Hard, class T, class FrameOf>
bool soft_loss(const KdCall<T>& call, const RowInput<T>& input, const Row<Hard, true, T>& row,
               const Temperature<T>& temperature, FrameOf&& frame_of, double& soft) {
  using V = Vector<double>;
  using L = Lanes<T>;
  using Field = RowScratch<T>;
  const RowScratch<T>& scratch = row.scratch;
  const Temperature<double>& exact = row.temperature;
  const SoftResult<double, 1> result = soft_result(row.sums, V(exact.inverse));
  const double log_ratio = first(result.log_ratio);
  const auto tau_log_ratio = [&](std::int64_t i) {
    return scratch[Field::kShift][i] - log_ratio * exact.tau;
  };
  soft = first(result.kl) * exact.tau * exact.tau;
  if (!(soft < infinity<double>())) return false;  // NaN, or beyond the type's range
  double mean_abs = 0, mean_square = 0;            // of log(A / B) under q, and of its square times tau^2
  for (std::int64_t i = 0; i < row.blocks; ++i) {
    const double q = row.b(i) * scratch[Field::kZt][i], x = tau_log_ratio(i);
    mean_abs += q * (x < 0 ? -x : x) * exact.inverse;
    mean_square += q * x * x;
  }
  if (!any(~kl_is_far(result.kl, V(mean_abs)))) return true;
  for_row(call, [&](std::int64_t i, Span block) {
    const NearFactors<T> factor{L(static_cast<T>(row.b(i))), L(static_cast<T>(row.a_minus_b(i))),
                                L(static_cast<T>(tau_log_ratio(i))), L(temperature.tau)};
    scratch[Field::kKl][i] = near_block(BlockGroups<T>(input, block, scratch), frame_of(i), factor,
                                        scratch[Field::kWideTerms][i] != 0);
  });
  soft = 0;
  for (std::int64_t i = 0; i < row.blocks; ++i) soft += scratch[Field::kKl][i];
  if (!row.wide && !any(~are_equal(row.sums, V(soft)))) return true;
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
  using Field = RowScratch<T>;
  const auto frame_of = [&](std::int64_t i) {
    return Frame<T>(L(static_cast<T>(scratch[Field::kMs][i])), L(static_cast<T>(scratch[Field::kMt][i])),
                    temperature);
  };
  for_row(call, [&](std::int64_t i, Span block) {
    const Extent<T> x = extent<Soft>(input, block);
    scratch[Field::kMs][i] = x.ms, scratch[Field::kMt][i] = x.mt;
    const T spread_s = x.ms - x.lowest_s, spread_t = x.mt - x.lowest_t,
            reach = Reach<T>::kSoftened * temperature.tau;
    const bool in_reach = Soft ? spread_s <= reach && spread_t <= reach : spread_s <= Reach<T>::kStudent;
    const bool powers = in_reach && spread_t <= Reach<T>::kTeacher && spread_s <= Reach<T>::kStudent;
    const int power_used = powers ? temperature.power : 0;
    scratch[Field::kPower][i] = power_used, scratch[Field::kWideTerms][i] = !in_reach;
    const Frame<T> frame = frame_of(i);
    if (!in_reach) {
      add_block<Hard, Soft, 0, kWide>(input, grad, block, frame, scratch, i);
      return;
    }
    const bool plain_gaps = !any(~(abs(frame.dm.value) <= L(Reach<T>::kOffset)));
    with_power<Hard && Soft>(power_used, [&](auto power) {
      const bool done =
          plain_gaps && add_block<Hard, Soft, power.value, kPlain>(input, grad, block, frame, scratch, i);
      if (!done) add_block<Hard, Soft, power.value, kExact>(input, grad, block, frame, scratch, i);
    });
  });

  Row<Hard, Soft, T> row(scratch, exact, call.classes);
  if (!row.plain) return false;
  row.add_blocks();
  if constexpr (Hard) {
    loss.hard = first(hard_result(row.sums, V(row.ms - static_cast<double>(input.s[input.label]))));
    if (!(loss.hard >= static_cast<double>(Reach<T>::kTail))) return false;
  }
  if constexpr (Soft)
    if (!soft_loss(call, input, row, temperature, frame_of, loss.soft)) return false;
  if (grad == nullptr) return true;

  const double inverse_total = Hard ? 1 / first(row.sums.others + row.sums.label) : 0;
  const double hard_weight = plan.hard_slope() * call.grad_scale * inverse_total;
  const double soft_weight = plan.soft_weight * call.grad_scale * exact.tau;
  for_row(call, [&](std::int64_t i, Span block) {
    const double de = Soft ? soft_weight * row.b(i) : 0, es = Soft ? soft_weight * row.a_minus_b(i) : 0;
    const double e1 = Hard ? hard_weight * scratch[Field::kW1][i] : 0;
    const GradientFactors<T> factor{L(static_cast<T>(e1)), L(static_cast<T>(de)), L(static_cast<T>(es))};
    const BlockGroups<T> groups(input, block, scratch);
    with_power<Hard && Soft>(static_cast<int>(scratch[Field::kPower][i]), [&](auto power) {
      write_terms<false, Hard, Soft, power.value>(groups.whole, factor, L(0), L(0), grad + block.begin);
      write_terms<false, Hard, Soft, power.value>(groups.last, factor, L(0), L(0),
                                                  grad + block.end - Groups<T>::kSize);
    });
    const std::int64_t label = input.label - block.begin;
    if (!Hard || label < 0 || label >= block.end - block.begin) return;
    double at_label = hard_weight * first(plan.keeps_p1 ? row.sums.label : V(0.0) - row.sums.others);
    if constexpr (Soft) {
      const T* const terms = groups.group_of(label).terms + groups.lane_of(label);
      at_label += de * static_cast<double>(terms[scratch.apart]) + es * static_cast<double>(terms[0]);
    }
    grad[input.label] = static_cast<T>(at_label);
  });
  if (hess == nullptr) return true;
  for_row(call, [&](std::int64_t i, Span block) {
    const L e1(static_cast<T>(Hard ? scratch[Field::kW1][i] * inverse_total : 0));
    const L es(static_cast<T>(Soft ? scratch[Field::kWs][i] * row.inverse_zs : 0));
    const BlockGroups<T> groups(input, block, scratch);
    with_power<Hard && Soft>(static_cast<int>(scratch[Field::kPower][i]), [&](auto power) {
      const auto write = [&](const Groups<T>& g, std::int64_t c) {
        write_probabilities<Hard, Soft, power.value>(g, e1, es, scratch.p1 + c, scratch.p + c);
      };
      write(groups.whole, block.begin), write(groups.last, block.end - Groups<T>::kSize);
    });
  });
  hessian_row(Hard ? scratch.p1 : nullptr, Soft ? scratch.p : nullptr, call.classes,
              plan.hard_slope() * call.hess_scale, plan.soft_weight * call.hess_scale, hess);
  return true;
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
