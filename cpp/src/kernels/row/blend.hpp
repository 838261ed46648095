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

#include "../loss/formula.hpp"
#include "../simd/layouts.hpp"
#include "plan.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// The power of two below a number >= 0, in which the largest of a row's targets is no longer too large or too
// small for its type: class weights have the range of doubles.
KDLOSS_INLINE double power_below(double x) {
  constexpr std::uint64_t kExponent = std::uint64_t{0x7ff} << Format<double>::kMantissaBits;
  std::uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits &= kExponent;
  __builtin_memcpy(&x, &bits, sizeof bits);
  return x == 0 ? 1 : x;
}
KDLOSS_INLINE double larger(double a, double b) { return a > b ? a : b; }

// g (ms - s), where a class that is not wanted may be masked.
template <class T>
KDLOSS_INLINE Lanes<T> wanted_gap(Lanes<T> g, Lanes<T> ms, Lanes<T> s) {
  return where(g == Lanes<T>(0), Lanes<T>(0), g * (ms - s));
}

// Completes the plan of one row with its target, that of the given row of labels or the plan's own, and
// leaves in g what blend_gradient() takes away, in units of plan.target_unit. s and the row of labels are
// contiguous.
template <class T>
void blend_row(const KdCall<T>& call, const Plans<T>& plans, const T* s, const Matrix<const T>& labels,
               std::int64_t row, T* g, RowPlan& plan) {
  using L = Lanes<T>;
  const std::int64_t classes = call.classes;
  const InRow<T> layout{classes};
  const T keep = static_cast<T>(1 - call.label_smoothing);
  const T share = static_cast<T>(call.label_smoothing / static_cast<double>(classes));
  const T* const y = call.labels.are_soft() ? at(labels, row) : nullptr;
  std::int64_t wanted = 1;  // classes that are not 0 in y; 2 for one that is not 1 either
  if (y != nullptr) {
    const auto ones = layout.template sums<1>([&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      return Some<L, 1>{where(load(y + c) == L(0), L(0), L(1))};
    });
    wanted = static_cast<std::int64_t>(first(ones.x[0]));
    plan.label = -1;
    while (wanted > 0 && ++plan.label + 1 < classes && y[plan.label] == 0) {
    }
    if (wanted == 1 && y[plan.label] != 1) wanted = 2;
  }
  if (plan.label < 0) {
    plan = plans.unlabelled(plan.weight);
    return;
  }
  if (wanted == 1 && share == 0) {
    if (call.class_weight != nullptr) plan.target_sum = call.class_weight[plan.label];
    plan.hard &= plan.target_sum > 0 || call.both_parts;
    return;
  }
  for (std::int64_t c = 0; c < classes; ++c) g[c] = y == nullptr ? share : keep * y[c] + share;
  if (y == nullptr) g[plan.label] = keep + share;
  if (!call.weights_fit) {
    double most = 0;
    for (std::int64_t c = 0; c < classes; ++c)
      most = larger(static_cast<double>(g[c]) * call.class_weight[c], most);
    plan.target_unit = power_below(most);
  }
  for (std::int64_t c = 0; call.class_weight != nullptr && c < classes; ++c)
    g[c] = static_cast<T>(static_cast<double>(g[c]) * (call.class_weight[c] / plan.target_unit));

  const L ms = largest_of(layout, [&](std::int64_t c) KDLOSS_INLINE_LAMBDA { return load(s + c); });
  const std::int64_t top = top_class(s, classes, ms);
  plan.blended = true, plan.label = top;
  const auto of_target = layout.template sums<2>([&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
    const L y = load(g + c);
    return Some<L, 2>{y, wanted_gap(y, ms, load(s + c))};
  });
  if (wanted > 1 || call.class_weight != nullptr) plan.target_sum = first(of_target.x[0]);  // else it is 1
  plan.hard &= plan.target_sum > 0 || call.both_parts;
  plan.keeps_p1 = 2 * static_cast<double>(g[top]) <= plan.target_sum;
  if (!plan.keeps_p1) g[top] = static_cast<T>(static_cast<double>(g[top]) - plan.target_sum);
  plan.target_sum *= plan.target_unit, plan.target_rest = first(of_target.x[1]) * plan.target_unit;
}

// The gradient of class m's hard loss becomes that of the target's.
template <class T>
void blend_gradient(T* grad, const T* g, std::int64_t classes, T hard_weight) {
  for (std::int64_t c = 0; c < classes; ++c) grad[c] -= hard_weight * g[c];
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
