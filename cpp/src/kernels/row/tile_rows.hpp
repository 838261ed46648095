// What the rows in a tile need: a RowPlan and a Temperature in each lane.
#pragma once

#include "../loss/formula.hpp"
#include "plan.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
struct TileRows {
  static constexpr int kCount = Lanes<T>::kCount;
  alignas(64) T uses_hard[kCount], uses_soft[kCount];  // 1 where the row uses that part, else 0
  alignas(64) T label[kCount];                         // -1: none
  alignas(64) T tau[kCount], inverse_tau[kCount], k[kCount], squarings[kCount];
  double tau_in_double[kCount];
  alignas(64) T ordinary[kCount];  // 1 where the temperature is
  alignas(64) double weight[kCount], hard_weight[kCount], soft_weight[kCount];
  alignas(64) double target_sum[kCount], target_rest[kCount];
  alignas(64) double target_unit[kCount];
  alignas(64) T keeps_p1[kCount];  // 1 or 0
  // Of the reduced loss, in the kernels' parts; of the soft one times tau.
  alignas(64) T hard_factor[kCount], soft_factor[kCount];
  bool still_alike = false;  // all this, but for the labels, is what all rows need that are alike

  void set(int i, const RowPlan& plan, double grad_scale) {
    label[i] = static_cast<T>(plan.hard ? plan.label : -1);  // its gradient would be -0 there
    uses_hard[i] = plan.hard, uses_soft[i] = plan.soft;
    weight[i] = plan.weight, hard_weight[i] = plan.hard_weight, soft_weight[i] = plan.soft_weight;
    target_sum[i] = plan.target_sum, target_rest[i] = plan.target_rest, target_unit[i] = plan.target_unit;
    keeps_p1[i] = plan.keeps_p1;
    hard_factor[i] = static_cast<T>(plan.hard_factor() * grad_scale);
    soft_factor[i] = static_cast<T>(plan.soft_weight * static_cast<double>(tau[i]) * grad_scale);
  }
  static Lanes<T> narrowed(const double* from, double scale) {
    using D = Lanes<double>;
    alignas(64) double scaled[kCount];
    for (int i = 0; i < kCount; i += D::kCount) store(scaled + i, load(from + i) * D(scale));
    Lanes<T> x;
    load_narrow(scaled, x);
    return x;
  }
  // After target_sum has changed.
  void set_hard_factors(double grad_scale) {
    alignas(64) double factor[kCount];
    for (int i = 0; i < kCount; ++i) factor[i] = hard_weight[i] * target_sum[i];
    store(hard_factor, narrowed(factor, grad_scale));
  }
  Lanes<T> in_target_units(const double* from, double scale) const {
    alignas(64) double product[kCount];
    for (int i = 0; i < kCount; ++i) product[i] = from[i] * target_unit[i];
    return narrowed(product, scale);
  }
  RowPlan plan(int i) const {
    RowPlan plan;
    plan.counts = weight[i] > 0, plan.hard = uses_hard[i] != 0, plan.soft = uses_soft[i] != 0;
    plan.weight = weight[i], plan.hard_weight = hard_weight[i], plan.soft_weight = soft_weight[i];
    plan.label = static_cast<std::int64_t>(label[i]);
    plan.target_sum = target_sum[i], plan.target_rest = target_rest[i];
    plan.target_unit = target_unit[i];
    plan.keeps_p1 = keeps_p1[i] != 0;
    return plan;
  }
  // Rows [first, first + count). Lanes without a row repeat the last one, so that they cost no branch of
  // their own; what comes of them is not used.
  void fill(const KdCall<T>& call, const Plans<T>& plans, std::int64_t first, int count) {
    const bool alike = plans.read_labels(first, count, label) && (count == kCount || plans.uniform());
    if (!alike)
      set_one_by_one(call, plans, first, count);
    else if (plans.weighted())
      set_each(call, first);
    else if (!still_alike)
      set_all(plans[first], call.grad_scale);
    for (int i = count; alike && i < kCount; ++i) label[i] = label[count - 1];
    still_alike = alike && !plans.blended();
  }
  void set_one_by_one(const KdCall<T>& call, const Plans<T>& plans, std::int64_t first, int count) {
    // Where nothing but the label is a row's own, only rows without a class need a plan of their own.
    if (plans.uniform()) set_all(plans.labelled(1, call.alpha), call.grad_scale);
    for (int i = 0; i < kCount; ++i) {
      const std::int64_t row = first + (i < count ? i : count - 1);
      const std::int64_t own = plans.uniform() ? plans.class_of(row) : kUnlabelled;
      if (plans.is_class(own)) {
        label[i] = static_cast<T>(own);
        continue;
      }
      const RowPlan plan = plans[row];
      // A row that does not count may hold any temperature.
      if (call.taus != nullptr) set(i, Temperature<T>(plan.counts ? tau_of(call, row) : 1));
      set(i, plan, call.grad_scale);
    }
  }
  // All rows alike, but for their labels.
  void set_all(const RowPlan& plan, double grad_scale) {
    const auto fill = [](auto* to, auto value) {
      using L = Lanes<decltype(value)>;
      for (int i = 0; i < kCount; i += L::kCount) store(to + i, L(value));
    };
    fill(uses_hard, T(plan.hard)), fill(uses_soft, T(plan.soft)), fill(keeps_p1, T(0));
    fill(weight, plan.weight), fill(hard_weight, plan.hard_weight), fill(soft_weight, plan.soft_weight);
    fill(target_sum, 1.0), fill(target_rest, 0.0), fill(target_unit, 1.0);
    fill(hard_factor, static_cast<T>(plan.hard_factor() * grad_scale));
    fill(soft_factor, static_cast<T>(plan.soft_weight * static_cast<double>(tau[0]) * grad_scale));
  }
  // The rows from the given one, whose labels are known: each with a weight and an alpha of its own.
  void set_each(const KdCall<T>& call, std::int64_t first) {
    using D = Lanes<double>;
    const bool has_teacher = call.teacher.data != nullptr;
    alignas(64) double needs_hard[kCount], needs_soft[kCount], times_tau[kCount];
    const D tau_of_all(static_cast<double>(tau[0]));
    for (int i = 0; i < kCount; i += D::kCount) {
      const D w = call.sample_weight == nullptr ? D(1.0) : load(call.sample_weight + first + i);
      const D zero(0.0), one(1.0), any(call.both_parts ? 1.0 : 0.0), teacher(has_teacher ? 1.0 : 0.0);
      const D alpha = call.alphas == nullptr ? D(call.alpha) : load(call.alphas + first + i);
      const D a = where(zero < w, alpha, zero);  // a row of weight 0 may have any
      store(needs_hard + i, where(zero < w, where(zero < a, one, any), zero));
      store(needs_soft + i, where(zero < w, where(a < one, one, any), zero) * teacher);
      store(weight + i, w), store(hard_weight + i, w * a), store(soft_weight + i, w * (one - a));
      store(times_tau + i, load(soft_weight + i) * tau_of_all);
      store(target_sum + i, one), store(target_rest + i, zero), store(target_unit + i, one);
    }
    store(uses_hard, narrowed(needs_hard, 1)), store(uses_soft, narrowed(needs_soft, 1));
    store(hard_factor, narrowed(hard_weight, call.grad_scale));
    store(soft_factor, narrowed(times_tau, call.grad_scale));
    store(keeps_p1, Lanes<T>(T(0)));
    store(label, where(load(uses_hard) == Lanes<T>(1), load(label), Lanes<T>(-1)));  // as in set()
  }
  void set_all(const Temperature<T>& t) {
    using L = Lanes<T>;
    store(tau, L(t.tau)), store(inverse_tau, L(t.inverse)), store(k, L(t.k));
    store(squarings, L(t.squarings)), store(ordinary, L(T(t.ordinary)));
    for (double& x : tau_in_double) x = t.in_double;
  }
  void set(int i, const Temperature<T>& temperature) {
    tau_in_double[i] = temperature.in_double, tau[i] = temperature.tau, inverse_tau[i] = temperature.inverse,
    k[i] = temperature.k;
    squarings[i] = temperature.squarings, ordinary[i] = temperature.ordinary;
  }
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
