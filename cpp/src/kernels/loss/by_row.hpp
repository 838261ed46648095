// The walk over one row of many classes: sixteen (or eight) neighbouring classes in the lanes.
//
// A row is cut at fixed edges into blocks that fit L1. All are read for the row's largest logits, and again
// for their sums, which are added in double; the gradient follows from the exponentials that this leaves. So
// the logits come from memory once where a row fits the last-level cache, threads may share its blocks, and
// the order of all additions depends on the number of classes alone.
#pragma once

#include "../../kernel_table.hpp"
#include "../row/plan.hpp"
#include "exact_growth.hpp"
#include "walk.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
struct RowInput {
  const T *s, *t;      // t is s, and not read, where the row has no soft part
  std::int64_t ahead;  // from this row to the next
  T* grad;             // where the gradient will be written, or null
};

// A row's working memory: what is known of each block, and the terms of its groups.
template <class T>
struct RowScratch {
  Section<T>* blocks;
  T* terms;
  std::int64_t apart;
  T *p1, *p;  // for the Hessian

  // Elements, for whole Lanes.
  static std::int64_t of_classes(std::int64_t classes) {
    constexpr std::int64_t n = Lanes<T>::kCount;
    return (classes + n - 1) / n * n;
  }
  static std::int64_t of_blocks(std::int64_t classes) {
    const std::int64_t bytes = block_count(classes) * static_cast<std::int64_t>(sizeof(Section<T>));
    return (bytes + 63) / 64 * 64 / static_cast<std::int64_t>(sizeof(T));
  }
  static std::int64_t size(std::int64_t classes) { return of_blocks(classes) + 5 * of_classes(classes); }
  RowScratch(T* memory, std::int64_t classes)
      : blocks(reinterpret_cast<Section<T>*>(memory)),
        terms(memory + of_blocks(classes)),
        apart(of_classes(classes)),
        p1(terms + 3 * apart),
        p(p1 + apart) {}
};

// Where the label is among the groups' elements, or anywhere else.
template <class T, int P = kParts>
struct RowLabel {
  static constexpr bool kInLanes = false;
  std::int64_t place;
  RowLabel<T, 1> part(int i) const { return {place - i * Vector<T>::kCount}; }
  template <class F>
  KDLOSS_INLINE void at(std::int64_t i, F&& f) {
    using L = Lanes<T, P>;
    if (__builtin_expect(i <= place && place < i + L::kCount, 0))
      f(lane_index<T, P>() == L(static_cast<T>(place - i)));
  }
};

// Prefetches the next row while this one is computed: into L2 where a row has several blocks, since L1 would
// not hold it beside them.
template <class T>
struct RowAhead {
  std::int64_t distance;
  bool has_blocks;
  const T* grad;  // of the first group; or null
  template <bool Soft>
  KDLOSS_INLINE void ask(const Groups<T>& groups, int, std::int64_t i) const {
    if (has_blocks) {
      prefetch<false, 2>(groups.s + i, distance);
      if constexpr (Soft) prefetch<false, 2>(groups.t + i, distance);
    } else {
      prefetch(groups.s + i, distance);
      if constexpr (Soft) prefetch(groups.t + i, distance);
    }
    if (grad != nullptr) prefetch<true>(grad, i);
  }
};

// What splits a row's columns where no threads do.
inline void run_here(std::int64_t count, int, Task task, void* context) { task(context, 0, count, 0); }

template <class T>
class ByRow {
  using L = Lanes<T>;

 public:
  using Element = T;
  using Number = Vector<double>;
  using Flag = Mask<double, 1>;
  static constexpr bool kHasRoundedGaps = true;
  static constexpr Way kBeyond = kWide;

  ByRow(const KdCall<T>& call, const RowPlan& plan, const RowInput<T>& input,
        const Temperature<T>& temperature, const RowScratch<T>& scratch)
      : call_(call), plan_(plan), input_(input), temperature_(temperature), scratch_(scratch) {}

  // ---- The classes: blocks, the last of which may have a group that reaches back
  Classes<T, RowLabel<T>, RowAhead<T>> classes_of(Span block) const {
    constexpr std::int64_t n = L::kCount;
    const std::int64_t length = block.end - block.begin, count = (length + n - 1) / n;
    T* const grad = input_.grad == nullptr ? nullptr : input_.grad + block.begin;
    return {{input_.s + block.begin, input_.t + block.begin, scratch_.terms + block.begin, scratch_.apart,
             count, count * n - length},
            {plan_.label - block.begin},
            {input_.ahead, block_count(call_.classes) > 1, grad},
            block.begin};
  }
  // On this thread, or on several where the call asks for it.
  template <class F>
  void each_section(F&& f) const {
    const std::int64_t count = block_count(call_.classes);
    auto run = [&](std::int64_t begin, std::int64_t end) KDLOSS_INLINE_LAMBDA {
      for (std::int64_t i = begin; i < end; ++i)
        f(scratch_.blocks[i], classes_of(block_at(i, count, call_.classes)));
    };
    using Run = decltype(run);
    const Task task = [](void* p, std::int64_t begin, std::int64_t end, int) {
      (*static_cast<Run*>(p))(begin, end);
    };
    (call_.split_columns == nullptr ? run_here : call_.split_columns)(count, call_.threads, task, &run);
  }
  template <class F>
  KDLOSS_INLINE void each_groups(F&& f) const {
    for_blocks(call_.classes, [&](Span block) KDLOSS_INLINE_LAMBDA { f(classes_of(block).groups); });
  }
  const Extent<T>& extent() const { return extent_ = combined(&Section<T>::extent); }
  const Sums<Number>& sums() const { return sums_ = combined(&Section<T>::sums); }
  DivergenceSums<Number> third() const { return combined(&Section<T>::third); }
  std::int64_t classes() const { return call_.classes; }
  InRow<T> layout() const { return {call_.classes}; }

  // ---- Numbers of the row
  // Over all lanes, which belong to one row.
  static void spread(Extent<T>& x) {
    x.ms = L(largest(x.ms)), x.mt = L(largest(x.mt));
    x.lowest_s = L(smallest(x.lowest_s)), x.lowest_t = L(smallest(x.lowest_t));
  }
  static L sum_in_row(L x) { return L(sum(x)); }
  static L largest_in_row(L x) { return L(largest(x)); }
  static Extent<T> total(const Extent<T>& x) { return x; }  // spread() already
  static Number total(L x) { return Number(static_cast<double>(sum(x))); }
  static Sums<Number> total(const Sums<L>& x) {
    return {total(x.zt), total(x.zs), total(x.d), total(x.moved), total(x.others), total(x.label_e1)};
  }
  static DivergenceSums<Number> total(const DivergenceSums<L>& x) {
    return {total(x.terms), total(x.slopes), Number(static_cast<double>(smallest(x.least)))};
  }
  static L lanes(Number x) { return L(static_cast<T>(first(x))); }
  static Flag flag(Mask<T> x) { return all_lanes<Number>(!any(~x)); }

  // ---- What the row needs
  static KDLOSS_INLINE Mask<T> uses_hard(bool does) { return all_lanes<L>(does); }
  static KDLOSS_INLINE Mask<T> uses_soft(bool does) { return all_lanes<L>(does); }
  Flag is_ordinary() const { return all_lanes<Number>(temperature_.ordinary); }
  L tau() const { return L(temperature_.tau); }
  L inverse_tau() const { return L(temperature_.inverse); }
  Number row_tau() const { return Number(temperature_.in_double); }
  Number row_inverse_tau() const { return Number(1 / temperature_.in_double); }
  L k() const { return L(temperature_.k); }
  L squarings() const { return L(temperature_.squarings); }
  Number hard_factor() const { return Number(plan_.hard_factor() * call_.grad_scale); }
  Number soft_factor() const { return Number(plan_.soft_weight * call_.grad_scale * temperature_.in_double); }
  Number mse_factor() const {
    return Number(2 * plan_.soft_weight * call_.grad_scale / static_cast<double>(call_.classes));
  }
  Divergence divergence() const { return call_.divergence; }
  double beta() const { return call_.beta; }
  bool wants_hessian() const { return call_.hess.data != nullptr; }
  // The teacher's logit at the student's largest.
  L top_teacher(L ms) const { return L(input_.t[top_class(input_.s, call_.classes, ms)]); }
  L hard_curvature() const { return L(static_cast<T>(plan_.hard_factor() * call_.hess_scale)); }
  L soft_curvature() const { return L(static_cast<T>(plan_.soft_weight * call_.hess_scale)); }
  Number label_below(const Extent<T>& x) const {
    return Number(static_cast<double>(first(x.ms)) - static_cast<double>(input_.s[plan_.label]));
  }
  RowLabel<T> gradient_labels(const RowLabel<T>& x) const { return plan_.keeps_p1 ? RowLabel<T>{-1} : x; }
  T* grad() const { return input_.grad; }
  T* p1() const { return scratch_.p1; }
  T* p() const { return scratch_.p; }

  void clear_unused_terms() const {}
  Number exact_growth(Mask<T>, const Frame<T>& frame, Number) const {
    return Number(KDLOSS_ISA::exact_growth(input_.s, input_.t, 1, call_.classes, first(frame.ms),
                                           first(frame.mt), temperature_.in_double));
  }

 private:
  // What all blocks add up to.
  template <class X>
  KDLOSS_INLINE auto combined(X Section<T>::* member) const {
    auto all = total(scratch_.blocks[0].*member);
    for (std::int64_t i = 1; i < block_count(call_.classes); ++i) all.add(total(scratch_.blocks[i].*member));
    return all;
  }

  const KdCall<T>& call_;
  const RowPlan& plan_;
  const RowInput<T>& input_;
  const Temperature<T>& temperature_;
  const RowScratch<T>& scratch_;
  mutable Extent<T> extent_;
  mutable Sums<Number> sums_;
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
