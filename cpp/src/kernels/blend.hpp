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

#include "convert.hpp"
#include "kd_formula.hpp"
#include "kd_plan.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// g (ms - s), where a class that is not wanted may be masked.
template <class T>
KDLOSS_INLINE Lanes<T> wanted_gap(Lanes<T> g, Lanes<T> ms, Lanes<T> s) {
  return where(g == Lanes<T>(0), Lanes<T>(0), g * (ms - s));
}

// The columns' sum of f(column), block by block, in double.
template <class T, class F>
double sum_over(std::int64_t classes, F&& f) {
  double total = 0;
  for_blocks(classes, [&](Span block) KDLOSS_INLINE_LAMBDA {
    Lanes<T> sums(T(0));
    for_columns<T>(block, [&](std::int64_t c, std::int64_t fresh) KDLOSS_INLINE_LAMBDA {
      const Lanes<T> x = f(c);
      sums = sums + (fresh == c ? x : only_fresh(x, fresh - c));
    });
    total += sum(sums);
  });
  return total;
}

// Completes the plan of one row with its target, and leaves in g what blend_gradient() takes away. s is
// contiguous.
template <class T>
void blend_row(const KdCall<T>& call, const Plans<T>& plans, std::int64_t row, const T* s, T* g,
               RowPlan& plan) {
  using L = Lanes<T>;
  const std::int64_t classes = call.classes;
  const double keep = 1 - call.label_smoothing, share = call.label_smoothing / static_cast<double>(classes);
  std::int64_t wanted = 1;  // classes that are not 0 in y
  if (call.labels.are_soft()) {
    read_rows(call.labels.probabilities, row, 1, classes, g);
    wanted = 0;
    for (std::int64_t c = 0; c < classes; ++c) wanted += g[c] != 0;
    plan.label = -1;
    while (wanted > 0 && g[++plan.label] == 0) {
    }
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
  if (wanted == 1) {
    for (std::int64_t c = 0; c < classes; ++c) g[c] = static_cast<T>(share);
    g[plan.label] = static_cast<T>(keep + share);
  } else if (share > 0) {
    for (std::int64_t c = 0; c < classes; ++c)
      g[c] = static_cast<T>(keep * static_cast<double>(g[c]) + share);
  }
  for (std::int64_t c = 0; call.class_weight != nullptr && c < classes; ++c)
    g[c] = static_cast<T>(static_cast<double>(g[c]) * call.class_weight[c]);

  L largest_lanes(-infinity<T>());
  for_columns<T>({0, classes}, [&](std::int64_t c, std::int64_t)
                                   KDLOSS_INLINE_LAMBDA { largest_lanes = max(load(s + c), largest_lanes); });
  const L ms(largest(largest_lanes));
  std::int64_t top = 0;
  while (top + L::kCount < classes && !any(load(s + top) == ms)) top += L::kCount;
  while (top + 1 < classes && s[top] != first(ms)) ++top;

  plan.blended = true, plan.label = top;
  if (wanted > 1 || call.class_weight != nullptr)  // else it is 1
    plan.target_sum = sum_over<T>(classes, [&](std::int64_t c) KDLOSS_INLINE_LAMBDA { return load(g + c); });
  plan.target_rest = sum_over<T>(
      classes, [&](std::int64_t c) KDLOSS_INLINE_LAMBDA { return wanted_gap(load(g + c), ms, load(s + c)); });
  plan.hard &= plan.target_sum > 0 || call.both_parts;
  plan.keeps_p1 = 2 * static_cast<double>(g[top]) <= plan.target_sum;
  if (!plan.keeps_p1) g[top] = static_cast<T>(static_cast<double>(g[top]) - plan.target_sum);
}

// The gradient of class m's hard loss becomes that of the target's.
template <class T>
void blend_gradient(T* grad, const T* g, std::int64_t classes, T hard_weight) {
  for (std::int64_t c = 0; c < classes; ++c) grad[c] -= hard_weight * g[c];
}

// Whether rows of soft labels are probabilities, or zeros.
template <class T>
std::int64_t bad_probabilities(const KdCall<T>& call, std::int64_t begin, std::int64_t end) {
  const AnyView& v = call.labels.probabilities;
  return with_scalar(v.type, [&](auto element) {
    using E = decltype(element);
    const Matrix<const E> m = typed<E>(v);
    for (std::int64_t row = begin; row < end; ++row) {
      if (call.sample_weight != nullptr && call.sample_weight[row] == 0) continue;
      const E* const p = at(m, row);
      constexpr int n = 16;  // sums side by side, which the compiler keeps in a vector
      double sums[n] = {};
      int negative = 0;
      const auto add = [&](auto stride) KDLOSS_INLINE_LAMBDA {
        const auto add_one = [&](std::int64_t c, int i) KDLOSS_INLINE_LAMBDA {
          const double y = static_cast<double>(widened(p[c * stride()]));
          sums[i] += y, negative |= y < 0;
        };
        std::int64_t c = 0;
        for (; c + n <= call.classes; c += n)
          for (int i = 0; i < n; ++i) add_one(c + i, i);
        for (; c < call.classes; ++c) add_one(c, 0);
      };
      if (m.class_stride == 1)
        add([] { return std::int64_t(1); });
      else
        add([&] { return m.class_stride; });
      double total = 0;
      for (double x : sums) total += x;
      const double excess = total - 1;
      const bool unlabelled = total == 0 && call.teacher.data != nullptr;
      if (negative != 0 ||
          !(unlabelled || (excess <= kProbabilityTolerance && -excess <= kProbabilityTolerance)))
        return row;
    }
    return std::int64_t(-1);
  });
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
