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

template <class T>
double tau_of(const KdCall<T>& call, std::int64_t row) {
  return call.taus == nullptr ? call.tau : call.taus[row];
}

// Which parts a row needs, and their weights. A class learns from both parts, -1 from the teacher alone,
// padding from nothing.
//
// The kernels compute the hard loss of one class, `label`, with weight 1. The hard loss of the row is
// target_sum times that, plus target_rest: class weights change the one, blended targets (blend.hpp) both.
struct RowPlan {
  bool counts = false, hard = false, soft = false;
  double weight = 0, hard_weight = 0, soft_weight = 0;
  std::int64_t label = -1;
  double target_sum = 1, target_rest = 0;
  double target_unit = 1;                  // what blended targets are multiples of, a power of two
  bool blended = false, keeps_p1 = false;  // keeps_p1: the gradient at label is that of p1, not of p1 - 1

  double hard_factor() const {
    return hard_weight * target_sum;
  }  // of the row's loss in the kernel's hard loss
};

template <class T>
class Plans {
 public:
  explicit Plans(const KdCall<T>& call)
      : call_(call),
        weighted_(call.alphas != nullptr || call.sample_weight != nullptr),
        plain_(call.taus == nullptr &&
               (call.labels.are_soft() ||
                (call.labels.are_indices() ? call.label_smoothing > 0 || call.class_weight == nullptr
                                           : !weighted_))) {}

  RowPlan operator[](std::int64_t row) const {
    const double weight = call_.sample_weight == nullptr ? 1 : call_.sample_weight[row];
    const std::int64_t label = call_.labels.are_indices() ? class_of(row) : -1;
    if (weight == 0 || (call_.labels.are_indices() && label == call_.ignore_index)) return {};
    const double alpha = call_.alphas == nullptr ? call_.alpha : call_.alphas[row];
    RowPlan plan = label >= 0 || call_.labels.are_soft() ? labelled(weight, alpha) : unlabelled(weight);
    plan.label = label;
    if (label >= 0 && call_.class_weight != nullptr && !blended()) {
      plan.target_sum = call_.class_weight[label];
      plan.hard &= plan.target_sum > 0 || call_.both_parts;
    }
    return plan;
  }
  RowPlan labelled(double weight, double alpha) const {
    RowPlan plan;
    plan.counts = true, plan.weight = weight;
    plan.hard = alpha > 0 || call_.both_parts;
    plan.soft = call_.teacher.data != nullptr && (alpha < 1 || call_.both_parts);
    plan.hard_weight = weight * alpha, plan.soft_weight = weight * (1 - alpha);
    return plan;
  }
  RowPlan unlabelled(double weight) const {
    RowPlan plan = labelled(weight, 0);
    plan.hard = false;
    return plan;
  }

  // A row's label, read once: the caller's may change while the call runs, and what is no class now is no
  // label.
  std::int64_t class_of(std::int64_t row) const {
    const std::int64_t y = read_label(call_.labels, row);
    return y == call_.ignore_index || (y >= 0 && y < call_.classes) ? y : kUnlabelled;
  }

  // Whether rows with a class are all alike, but for that class; and but for their weight and alpha.
  bool uniform() const { return plain_ && !weighted_; }
  bool weighted() const { return plain_ && weighted_; }
  bool is_class(std::int64_t label) const { return label >= 0 && label != call_.ignore_index; }
  // Writes the labels of these rows (-1 where they are no indices), unless rows have more of their own. True
  // if each has a class, or none has, and they are uniform() or weighted(). Classes are few here: a label of
  // more bits is that of padding, and replaced later.
  bool read_labels(std::int64_t first, int count, T* to) const {
    if (!plain_) return false;
    if (!call_.labels.are_indices()) {
      for (int i = 0; i < count; ++i) to[i] = -1;
      return true;
    }
    return with_indices(call_.labels, first, [&](const auto* y, std::int64_t stride) KDLOSS_INLINE_LAMBDA {
      for (int i = 0; i < count; ++i)  // AVX2 cannot convert the longer integers
        to[i] = static_cast<T>(static_cast<std::int32_t>(y[i * stride]));
      if (call_.all_have_class) return true;
      std::int64_t others = 0;
      for (int i = 0; i < count; ++i) others |= (y[i * stride] < 0) | (y[i * stride] == call_.ignore_index);
      return others == 0;
    });
  }
  // Whether targets are more than a class with a weight.
  bool blended() const { return call_.labels.are_soft() || call_.label_smoothing > 0; }

 private:
  const KdCall<T>& call_;
  bool weighted_;  // rows have weights or alphas
  bool plain_;     // and no more of their own than these and a label
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
