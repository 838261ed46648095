// What each row of a call needs, by its label, its weight, its alpha and its temperature.
#pragma once

#include "../../kernel_table.hpp"
#include "../simd/layouts.hpp"
#include "labels.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

struct RowParts {
  double hard = 0, soft = 0;
};

constexpr int kPadding = -2;  // a label, where ignore_index may be any number

template <class T>
double tau_of(const KdCall<T>& call, std::int64_t row) {
  return call.taus == nullptr ? call.tau : call.taus[row];
}

// The weights of a row's parts, and whether it needs them (1) or not (0); or of the row in each lane. A class
// learns from both parts, -1 from the teacher alone, padding from nothing.
template <int P>
struct PartWeights {
  Lanes<double, P> hard, soft, needs_hard, needs_soft;
};
template <class T, int P>
KDLOSS_INLINE PartWeights<P> part_weights(const KdCall<T>& call, Lanes<double, P> weight,
                                          Lanes<double, P> alpha, Mask<double, P> has_label) {
  using D = Lanes<double, P>;
  const D zero(0.0), one(1.0), both(call.both_parts ? 1.0 : 0.0);
  const D teacher(call.teacher.data == nullptr ? 0.0 : 1.0);
  const Mask<double, P> counts = zero < weight, labelled = counts & has_label;
  const D a = where(labelled, alpha, zero);  // padding may have any
  return {weight * a, weight * (one - a), where(labelled, where(zero < a, one, both), zero),
          where(counts, where(a < one, one, both), zero) * teacher};
}

// The kernels compute the hard loss of one class, `label`, with weight 1. The hard loss of the row is
// target_sum times that, plus target_rest: class weights change the one, blended targets (blend.hpp) both.
struct RowPlan {
  bool counts = false, hard = false, soft = false;
  double weight = 0, hard_weight = 0, soft_weight = 0;
  std::int64_t label = -1;
  double target_sum = 1, target_rest = 0;
  double target_unit = 1;  // what blended targets are multiples of, a power of two
  bool keeps_p1 = false;   // the gradient at label is that of p1, not of p1 - 1

  double hard_factor() const { return hard_weight * target_sum; }  // of the kernel's hard loss
};

template <class T>
class Plans {
 public:
  explicit Plans(const KdCall<T>& call)
      : call_(call), simple_(call.taus == nullptr && (call.class_weight == nullptr || blended())) {}

  RowPlan operator[](std::int64_t row) const {
    const double weight = call_.sample_weight == nullptr ? 1 : call_.sample_weight[row];
    const std::int64_t label = call_.labels.are_indices() ? class_of(row) : -1;
    if (weight == 0 || (call_.labels.are_indices() && label == call_.ignore_index)) return {};
    const double alpha = call_.alphas == nullptr ? call_.alpha : call_.alphas[row];
    RowPlan plan = with_weights(weight, alpha, label >= 0 || call_.labels.are_soft());
    plan.label = label;
    if (label >= 0 && call_.class_weight != nullptr && !blended()) {
      plan.target_sum = call_.class_weight[label];
      plan.hard &= plan.target_sum > 0 || call_.both_parts;
    }
    return plan;
  }
  RowPlan with_weights(double weight, double alpha, bool has_label) const {
    using D = Vector<double>;
    const auto x = part_weights(call_, D(weight), D(alpha), D(has_label ? 1.0 : 0.0) == D(1.0));
    RowPlan plan;
    plan.counts = weight > 0, plan.hard = first(x.needs_hard) == 1, plan.soft = first(x.needs_soft) == 1;
    plan.weight = weight, plan.hard_weight = first(x.hard), plan.soft_weight = first(x.soft);
    return plan;
  }

  // A row's label, read once, since the caller's array may change during the call. What is no class by now
  // counts as unlabelled.
  std::int64_t class_of(std::int64_t row) const {
    const std::int64_t y = read_label(call_.labels, row);
    return y == call_.ignore_index || (y >= 0 && y < call_.classes) ? y : kUnlabelled;
  }

  // Whether a row has no more of its own than a label, a weight and an alpha.
  bool are_simple() const { return simple_; }
  // Writes the labels of these rows, kPadding for padding. Whether each has a class, or none has.
  bool read_labels(std::int64_t first, int count, T* to) const {
    if (!call_.labels.are_indices()) {
      for (int i = 0; i < count; ++i) to[i] = -1;
      return true;
    }
    std::int64_t others = 0;
    with_indices(call_.labels, first, [&](const auto* y, std::int64_t stride) KDLOSS_INLINE_LAMBDA {
      for (int i = 0; i < count; ++i)  // AVX2 cannot convert the longer integers, nor are there many classes
        to[i] = static_cast<T>(static_cast<std::int32_t>(y[i * stride]));
      if (call_.all_have_class) return;
      for (int i = 0; i < count; ++i) others |= (y[i * stride] < 0) | (y[i * stride] == call_.ignore_index);
    });
    for (int i = 0; others != 0 && i < count; ++i) {
      const std::int64_t own = class_of(first + i);
      to[i] = static_cast<T>(own == call_.ignore_index ? kPadding : own);
    }
    return others == 0;
  }
  // Whether targets are more than a class with a weight.
  bool blended() const { return call_.labels.are_soft() || call_.label_smoothing > 0; }

 private:
  const KdCall<T>& call_;
  bool simple_;
};

// weight * value, where a weight of 0 means that the value, infinite or not, is not used.
KDLOSS_INLINE double used(double weight, double value) { return weight == 0 ? 0 : weight * value; }
KDLOSS_INLINE Lanes<double> used(Lanes<double> weight, Lanes<double> value) {
  return where(weight == Lanes<double>(0.0), Lanes<double>(0.0), weight * value);
}

// The parts of a row's loss from what the kernels computed, and the loss from its parts.
KDLOSS_INLINE RowParts with_target(const RowPlan& plan, RowParts parts) {
  return {used(plan.target_sum, parts.hard) + plan.target_rest, parts.soft};
}
KDLOSS_INLINE double mixed(const RowPlan& plan, RowParts parts) {
  return used(plan.hard_weight, parts.hard) + used(plan.soft_weight, parts.soft);
}

// Calls f(hard, soft) with the two as compile-time constants.
template <class F>
KDLOSS_INLINE auto with_parts(bool hard, bool soft, F&& f) {
  if (hard && soft) return f(Constant<true>{}, Constant<true>{});
  return hard ? f(Constant<true>{}, Constant<false>{}) : f(Constant<false>{}, Constant<true>{});
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
