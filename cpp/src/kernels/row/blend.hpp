// Targets that are more than one class: soft labels, smoothed labels, and class weights on either.
//
// With y the soft label or one-hot, eps the smoothing, w the class weights and C classes
//
//     g_c  = w_c ((1 - eps) y_c + eps / C)          W = sum g
//     hard = sum g_c (-log p1_c) = W (-log p1_m) + sum g_c (ms - s_c)           m the student's largest class
//     grad = W p1 - g            = W (p1 - onehot(m)) - (g - W onehot(m))
//
// so that the kernels compute the hard loss of class m, in which nothing cancels; what is added here is >= 0.
// The second form of the gradient is for a target that is mostly m, the first for all others. A row whose g
// is one class is a row with that class for its label, to the last bit.
#pragma once

#include "../simd/elementary.hpp"
#include "../simd/layouts.hpp"
#include "tile_rows.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// The power of two below a number >= 0.
KDLOSS_INLINE double power_below(double x) {
  constexpr std::uint64_t kExponent = std::uint64_t{0x7ff} << Format<double>::kMantissaBits;
  std::uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits &= kExponent;
  __builtin_memcpy(&x, &bits, sizeof bits);
  return x == 0 ? 1 : x;
}

// The target of a row, or of the row in each lane.
template <class Layout>
struct Target {
  using Number = typename Layout::Number;
  Number wanted;                 // 0, 1, or more: classes where y is not 0 (2 for one where y is not 1)
  typename Layout::Class label;  // m where the target is blended, else the first class that is wanted
  Number blended;                // 1 where g is more than one class
  Number sum, rest, keeps_p1;    // as in RowPlan, in units
  double inverse_unit[Layout::kRows];
};

// Multiplies g by the class weights, in units that keep each row's largest number in T's range.
template <class Layout, class T>
void weigh(const Layout& layout, const KdCall<T>& call, T* g, double* inverse_unit) {
  const double* const w = call.class_weight;
  for (int row = 0; row < Layout::kRows; ++row) {
    double most = 0;
    for (std::int64_t c = 0; !call.weights_fit && c < call.classes; ++c) {
      const double weighted = static_cast<double>(g[layout.index(row, c)]) * w[c];
      most = weighted > most ? weighted : most;
    }
    inverse_unit[row] = 1 / power_below(most);
  }
  for (std::int64_t c = 0; w != nullptr && c < call.classes; ++c)
    for (int row = 0; row < Layout::kRows; ++row) {
      T& x = g[layout.index(row, c)];  // 0 where the weight in units may be infinite
      x = x == 0 ? 0 : static_cast<T>(static_cast<double>(x) * (w[c] * inverse_unit[row]));
    }
}

// Finds the targets of rows with soft labels, or (where they are null) with the given labels. Leaves in g,
// which may be the soft labels, what the gradient of a blended target loses, and 0 for other rows: those of
// one class, and those without a hard part (uses_hard is 0).
template <class Layout, class T>
Target<Layout> blend(const Layout& layout, const KdCall<T>& call, const T* s, const T* soft_labels,
                     typename Layout::Class given, typename Layout::Number uses_hard, T* g) {
  using L = Lanes<T>;
  using Number = typename Layout::Number;
  const Number zero(0), one(1);
  const L keep(static_cast<T>(1 - call.label_smoothing));
  const L share(static_cast<T>(call.label_smoothing / static_cast<double>(call.classes)));
  if (soft_labels != nullptr)
    given = layout.first_where([&](std::int64_t i)
                                   KDLOSS_INLINE_LAMBDA { return ~(load(soft_labels + i) == L(0)); });
  Target<Layout> x;
  x.wanted = layout
                 .template sums<1>([&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
                   const L y = soft_labels != nullptr ? load(soft_labels + i)
                                                      : where(layout.holds(given, i), L(1), L(0));
                   store(g + i, fma(keep, y, share));
                   return Some<L, 1>{where(y == L(0), L(0), where(y == L(1), L(1), L(2)))};
                 })
                 .x[0];
  weigh(layout, call, g, x.inverse_unit);
  const L ms = largest_of(layout, [&](std::int64_t i) KDLOSS_INLINE_LAMBDA { return load(s + i); });
  const auto sums = layout.template sums<2>([&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
    const L target = load(g + i);  // a class that is not wanted may be masked
    return Some<L, 2>{target, where(target == L(0), L(0), target * (ms - load(s + i)))};
  });

  const auto is_one = (x.wanted == one) & (Number(call.label_smoothing) == zero);
  const auto is_blended = (uses_hard == one) & (zero < x.wanted) & ~is_one;
  const auto top = layout.first_where([&](std::int64_t i) KDLOSS_INLINE_LAMBDA { return load(s + i) == ms; });
  layout.change_at(g, top, [&](Number of_top) {
    const auto keeps_p1 = is_blended & (of_top + of_top <= sums.x[0]);
    x.keeps_p1 = where(keeps_p1, one, zero);
    return where(keeps_p1, of_top, of_top - sums.x[0]);
  });
  x.label = Layout::choose(is_blended, top, given), x.blended = where(is_blended, one, zero);
  x.sum = sums.x[0], x.rest = where(is_blended, sums.x[1], zero);
  if (any(~is_blended)) {
    const L blended = layout.as_lanes(x.blended);
    layout.each([&](std::int64_t i)
                    KDLOSS_INLINE_LAMBDA { store(g + i, where(blended == L(1), load(g + i), L(0))); });
  }
  return x;
}

// What else a plan needs, once it has the numbers of a target of so many classes.
template <class T>
void complete(RowPlan& plan, double wanted, const KdCall<T>& call, const Plans<T>& plans) {
  if (wanted == 0) {
    plan = plans.with_weights(plan.weight, 0, false);
    return;
  }
  if (wanted == 1 && call.label_smoothing == 0)  // not rounded to T
    plan.target_sum = call.class_weight == nullptr ? 1 : call.class_weight[plan.label];
  plan.hard &= plan.target_sum > 0 || call.both_parts;
}

// Sets the target of one row, and says whether it is blended; or of the rows of a tile, whose g has their
// soft labels.
template <class T>
bool set_target(RowPlan& plan, const KdCall<T>& call, const Plans<T>& plans, const T* s, const T* soft_labels,
                T* g) {
  const auto x = blend(InRow<T>{call.classes}, call, s, soft_labels, plan.label, Vector<double>(1), g);
  plan.label = x.label, plan.keeps_p1 = first(x.keeps_p1) == 1, plan.target_unit = 1 / x.inverse_unit[0];
  plan.target_sum = first(x.sum) * plan.target_unit, plan.target_rest = first(x.rest) * plan.target_unit;
  complete(plan, first(x.wanted), call, plans);
  return plan.hard && first(x.blended) == 1;
}
template <class T>
void set_targets(TileRows<T>& rows, const KdCall<T>& call, const Plans<T>& plans, const T* s, T* g) {
  using L = Lanes<T>;
  constexpr int n = L::kCount;
  const L uses_hard = load(rows.uses_hard);
  const auto x = blend(InLanes<T>{call.classes}, call, s, call.labels.are_soft() ? g : nullptr,
                       load(rows.label), uses_hard, g);
  const Mask<T> hard = uses_hard == L(1);
  store(rows.label, where(hard, x.label, L(-1))), store(rows.keeps_p1, x.keeps_p1);
  store_wide(rows.target_sum, where(hard, x.sum, L(1))), store_wide(rows.target_rest, x.rest);
  for (int i = 0; i < n; ++i) {
    rows.target_unit[i] = 1 / x.inverse_unit[i];
    rows.target_sum[i] *= rows.target_unit[i], rows.target_rest[i] *= rows.target_unit[i];
  }
  rows.set_hard_factors(call.grad_scale);
  if (call.class_weight == nullptr && !any(hard & (x.wanted == L(0)))) return;
  for (int i = 0; i < n; ++i) {
    if (rows.uses_hard[i] == 0) continue;
    RowPlan plan = rows.plan(i);
    complete(plan, lane(x.wanted, i), call, plans);
    rows.set(i, plan, call.grad_scale);
  }
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
