// The loss for rows of many classes: one row at a time, sixteen (or eight) neighbouring classes in the lanes.
//
// A row is cut at fixed edges into blocks that fit the first cache. All are read for the row's largest
// logits, and again for their sums, which are added in double; the gradient follows from the exponentials
// that this leaves. So the logits come from memory once where a row fits the last cache, threads may share
// its blocks, and the order of all additions depends on the number of classes alone.
#pragma once

#include "../../kernel_table.hpp"
#include "../row/plan.hpp"
#include "../simd/layouts.hpp"
#include "exact_growth.hpp"
#include "hessian.hpp"
#include "terms.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
struct RowInput {
  const T *s, *t;
  std::int64_t label;  // -1: none
  std::int64_t ahead;  // from what is read now to what will be needed next
  T* grad;             // where the gradient will be written, or null
};

// What is known of one block of a row.
template <class T>
struct Block {
  Extent<T> extent;   // after the first reading
  int power;          // after the second, as all below: how its terms came about,
  bool wide;          // whether some were out of reach, and may have become 0,
  Sums<double> sums;  // and their sums
  double kl;          // after the third, where there is one
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

// ---- Second reading: the sums
// The sums of all groups, but for e1 of the given class. What will be read next lies so far ahead; grad,
// where the first group's gradient will be written, may be null.
template <bool Hard, bool Soft, int Power, Way way, class T>
__attribute__((noinline)) void add_groups(const Groups<T>& all, const Frame<T>& whole_frame,
                                          std::int64_t label, std::int64_t ahead, const T* grad,
                                          Sums<Lanes<T>>& to) {
  using V = Vector<T>;
  for (int part = 0; part < kParts; ++part, label -= V::kCount) {
    const Groups<T> groups = all.part(part);
    const Frame<T, 1> frame = part_of(whole_frame, part);
    Sums<V> run;
    Totals<V> total;
    for_groups<T>(
        groups.count,
        [&](std::int64_t i) KDLOSS_INLINE_LAMBDA { return begin_groups<Soft, way>(groups, i, frame); },
        [&](const Reduced<T, 1>& begun, std::int64_t i) KDLOSS_INLINE_LAMBDA {
          prefetch(groups.s + i, ahead);
          if constexpr (Soft) prefetch(groups.t + i, ahead);
          if (grad != nullptr) prefetch<true>(grad, i);
          Terms<T, 1> x = finish_groups<Hard, Soft, Power, way>(begun, groups, i, frame, V(0), V(0) == V(0));
          if (Hard && __builtin_expect(i <= label && label < i + V::kCount, 0))
            x.e1 = where(lane_index<T, 1>() == V(static_cast<T>(label - i)), V(0), x.e1);
          if (__builtin_expect(run_ends(i / Groups<T>::kSize), 0)) total.add(run), run = Sums<V>();
          add<Hard, Soft>(run, x);
        });
    set_part(to, part, total.with(run));
  }
}

// False where the gaps need their rounding errors and were computed without.
template <bool Hard, bool Soft, int Power, Way way, class T>
bool add_block(const RowInput<T>& row, Span span, const Frame<T>& frame, const RowScratch<T>& scratch,
               Block<T>& block) {
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
                                     row.grad == nullptr ? nullptr : row.grad + span.begin, sums);
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

// ---- Third reading: the divergence of a row that is near its teacher, term by term
template <class T>
double near_block(const BlockGroups<T>& groups, const Frame<T>& frame, const NearFactors<T>& factor,
                  bool wide) {
  const Mask<T> in_reach = Lanes<T>(T(wide)) == Lanes<T>(0);
  const Lanes<T> whole = near_terms(groups.whole, frame, factor, in_reach);
  return sum(whole + only_fresh(near_terms(groups.last, frame, factor, in_reach), groups.stale));
}

// ---- The row
// Runs body(span, block) for every block of a row: on this thread, or on several where the call asks for it.
template <class T, class Body>
void for_row(const KdCall<T>& call, const RowScratch<T>& scratch, Body&& body) {
  const std::int64_t count = block_count(call.classes);
  auto run = [&](std::int64_t begin, std::int64_t end) KDLOSS_INLINE_LAMBDA {
    for (std::int64_t i = begin; i < end; ++i) body(block_at(i, count, call.classes), scratch.blocks[i]);
  };
  if (call.split_columns == nullptr) return run(0, count);
  using Run = decltype(run);
  call.split_columns(
      count, call.threads,
      [](void* p, std::int64_t begin, std::int64_t end, int) { (*static_cast<Run*>(p))(begin, end); }, &run);
}

template <bool Hard, bool Soft, class T>
class Row {
  using V = Vector<double>;
  using L = Lanes<T>;

 public:
  // Reads it twice: for its largest logits, and for its sums.
  Row(const KdCall<T>& call, const RowInput<T>& input, const Temperature<T>& temperature,
      const Temperature<double>& exact, const RowScratch<T>& scratch)
      : call_(call),
        input_(input),
        temperature_(temperature),
        exact_(exact),
        scratch_(scratch),
        count_(block_count(call.classes)),
        whole_(look()),
        frame_(L(whole_.ms), L(whole_.mt), temperature) {
    const bool plain_gaps = whole_.spread_t() <= Threshold<T>::kPowerDepth * temperature.tau &&
                            !any(~plain_gap_is_in_reach(frame_));
    for_row(call, scratch, [&](Span span, Block<T>& block) { add(span, block, plain_gaps); });
    for (std::int64_t i = 0; i < count_; ++i)
      sums_.add(scratch.blocks[i].sums), any_wide_ |= scratch.blocks[i].wide;
  }

  // False where they are beyond the plain path's reach.
  bool losses(RowParts& to) {
    if constexpr (Hard) {
      const double below = static_cast<double>(whole_.ms) - static_cast<double>(input_.s[input_.label]);
      to.hard = first(hard_result(sums(), V(below)));
      if (!(to.hard >= static_cast<double>(Threshold<T>::kTail))) return false;
    }
    if constexpr (Soft) return soft_loss(to.soft);
    return true;
  }

  // Whether each probability comes out as the Hessian wants it: a normal number, with all its digits.
  bool probabilities_are_whole(const RowPlan& plan) const {
    const T spread_s = whole_.spread_s(), spread_t = whole_.spread_t();
    const T reach = Threshold<T>::kStudentDepth * temperature_.tau;
    const T rounded = spread_t + 2 * (spread_s < spread_t ? spread_t : spread_s);
    const T unit = plan.hard && temperature_.power > 0 ? 1 : temperature_.tau;
    return (!plan.hard || spread_s <= Threshold<T>::kHardDepth) &&
           (!plan.soft ||
            (spread_s <= reach && spread_t <= reach && rounded <= Threshold<T>::kHessianDepth * unit));
  }

  void write_gradient(const RowPlan& plan) const {
    const double e1 = Hard ? plan.hard_slope() * call_.grad_scale / total() : 0;
    const double de = Soft ? plan.soft_weight * call_.grad_scale * exact_.tau / sums_.zt : 0;
    const double es = Soft ? -de * (growth() / sums_.zs) : 0;
    const GradientFactors<T> factor{L(static_cast<T>(e1)), L(static_cast<T>(de)), L(static_cast<T>(es))};
    for_row(call_, scratch_, [&](Span span, Block<T>& block) {
      const BlockGroups<T> groups(input_, span, scratch_);
      with_power<Hard && Soft>(block.power, [&](auto power) {
        write_terms<false, Hard, Soft, power.value>(groups.whole, factor, L(0), L(0),
                                                    input_.grad + span.begin);
        write_terms<false, Hard, Soft, power.value>(groups.last, factor, L(0), L(0),
                                                    input_.grad + span.end - Groups<T>::kSize);
      });
      const std::int64_t label = input_.label - span.begin;
      if (!Hard || label < 0 || label >= span.end - span.begin) return;
      double at_label = 0 + e1 * (plan.keeps_p1 ? sums_.label : -sums_.others);  // never -0
      if constexpr (Soft) {
        const T* const terms = groups.group_of(label).terms + groups.lane_of(label);
        at_label += de * static_cast<double>(terms[scratch_.apart]) + es * static_cast<double>(terms[0]);
      }
      input_.grad[input_.label] = static_cast<T>(at_label);
    });
  }

  void write_hessian(const RowPlan& plan, T* hess) const {
    const L e1(static_cast<T>(1 / total())), es(static_cast<T>(1 / sums_.zs));
    for_row(call_, scratch_, [&](Span span, Block<T>& block) {
      const BlockGroups<T> groups(input_, span, scratch_);
      with_power<Hard && Soft>(block.power, [&](auto power) {
        const auto write = [&](const Groups<T>& g, std::int64_t c) {
          write_probabilities<Hard, Soft, power.value>(g, e1, es, scratch_.p1 + c, scratch_.p + c);
        };
        write(groups.whole, span.begin), write(groups.last, span.end - Groups<T>::kSize);
      });
    });
    const L hard_weight(static_cast<T>(plan.hard_slope() * call_.hess_scale));
    const L soft_weight(static_cast<T>(plan.soft_weight * call_.hess_scale));
    kdloss::KDLOSS_ISA::write_hessian<Hard, Soft>(InRow<T>{call_.classes}, scratch_.p1, scratch_.p,
                                                  hard_weight, soft_weight, hess);
  }

 private:
  Extent<T> look() const {
    for_row(call_, scratch_, [&](Span span, Block<T>& block) { block.extent = extent<Soft>(input_, span); });
    Extent<T> whole = scratch_.blocks[0].extent;
    for (std::int64_t i = 1; i < count_; ++i) whole.add(scratch_.blocks[i].extent);
    return whole;
  }

  void add(Span span, Block<T>& block, bool plain_gaps) {
    const T spread_s = whole_.ms - block.extent.lowest_s, spread_t = whole_.mt - block.extent.lowest_t;
    const bool in_reach = Soft ? spread_s <= Threshold<T>::kStudentDepth * temperature_.tau &&
                                     spread_t <= Threshold<T>::kTeacherDepth * temperature_.tau
                               : spread_s <= Threshold<T>::kHardDepth;
    const bool powers =
        in_reach && spread_t <= Threshold<T>::kPowerDepth && spread_s <= Threshold<T>::kHardDepth;
    block.power = powers ? temperature_.power : 0, block.wide = !in_reach;
    if (!in_reach) {
      add_block<Hard, Soft, 0, kWide>(input_, span, frame_, scratch_, block);
      return;
    }
    with_power<Hard && Soft>(block.power, [&](auto power) {
      if constexpr (Soft)
        if (plain_gaps && add_block<Hard, Soft, power.value, kPlain>(input_, span, frame_, scratch_, block))
          return;
      add_block<Hard, Soft, power.value, kExact>(input_, span, frame_, scratch_, block);
    });
  }

  Sums<V> sums() const {
    return {V(sums_.zt), V(sums_.zs), V(sums_.d), V(sums_.moved), V(sums_.others), V(sums_.label)};
  }
  double total() const { return sums_.others + sums_.label; }  // of e1

  // D, for the gradient.
  double growth() const {
    const L depth(whole_.spread_t() * temperature_.inverse), zs(static_cast<T>(sums_.zs));
    if (!any(may_balance<T>(static_cast<T>(call_.classes), depth, zs))) return sums_.d;
    const L ratio(static_cast<T>(sums_.d / sums_.zs));
    double sum_of_growth = 0;
    L most(T(0));
    for (std::int64_t b = 0; b < count_; ++b) {
      const BlockGroups<T> groups(input_, block_at(b, count_, call_.classes), scratch_);
      Balance<T> balance;
      const auto look = [&](const Groups<T>& some) {
        for (std::int64_t i = 0; i < some.count * Groups<T>::kSize; i += Groups<T>::kSize)
          balance.add(load(some.terms + i), load(some.terms + some.apart + i), ratio);
      };
      look(groups.whole), look(groups.last);
      sum_of_growth += static_cast<double>(sum(balance.growth)), most = max(balance.most, most);
    }
    if (!any(balances(L(static_cast<T>(sum_of_growth)), L(largest(most)), depth, zs))) return sums_.d;
    return exact_growth(input_.s, input_.t, 1, call_.classes, whole_.ms, whole_.mt, exact_.tau);
  }

  bool soft_loss(double& soft) const {
    const V tau(exact_.tau);
    const SoftResult<double, 1> result = soft_result(sums(), V(exact_.inverse));
    soft = first(result.kl * tau * tau);
    if (!(soft < infinity<double>())) return false;  // NaN, or beyond the type's range
    if (!any(~kl_is_far(result.kl, abs(result.log_ratio)))) return true;
    const V tau_log_ratio = V(0.0) - result.log_ratio * tau;
    const auto narrow = [](double x) { return L(static_cast<T>(x)); };
    const NearFactors<T> factor{narrow(1 / sums_.zs), narrow(1 / sums_.zt), narrow(first(tau_log_ratio)),
                                L(temperature_.tau)};
    for_row(call_, scratch_, [&](Span span, Block<T>& block) {
      block.kl = near_block(BlockGroups<T>(input_, span, scratch_), frame_, factor, block.wide);
    });
    soft = 0;
    for (std::int64_t i = 0; i < count_; ++i) soft += scratch_.blocks[i].kl;
    if (!any_wide_ && !any(~are_equal(sums(), V(soft)))) return true;
    return !any(~near_kl_is_fit(V(soft), tau_log_ratio * tau_log_ratio, tau,
                                static_cast<double>(Threshold<T>::kTail)));
  }

  const KdCall<T>& call_;
  const RowInput<T>& input_;
  const Temperature<T>& temperature_;
  const Temperature<double>& exact_;
  const RowScratch<T>& scratch_;
  const std::int64_t count_;  // of blocks
  const Extent<T> whole_;
  const Frame<T> frame_;
  bool any_wide_ = false;
  Sums<double> sums_;
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
