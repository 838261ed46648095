// What the rows in a tile need: a RowPlan and a Temperature in each lane.
#pragma once

#include "plan.hpp"
#include "temperature.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
struct TileRows {
  static constexpr int kCount = Lanes<T>::kCount;
  alignas(64) T uses_hard[kCount], uses_soft[kCount];  // 1 where the row uses that part, else 0
  alignas(64) T label[kCount];                         // -1: none
  alignas(64) T tau[kCount], inverse_tau[kCount], k[kCount], squarings[kCount];
  double tau_in_double[kCount];
  alignas(64) T ordinary[kCount];  // 1 where Temperature::ordinary
  alignas(64) double weight[kCount], hard_weight[kCount], soft_weight[kCount];
  alignas(64) double target_sum[kCount], target_rest[kCount];
  alignas(64) double target_unit[kCount];
  alignas(64) T keeps_p1[kCount];  // 1 or 0
  // Factors of the gradients of the kernels' hard and soft loss. The soft one includes tau.
  alignas(64) T hard_factor[kCount], soft_factor[kCount];
  bool still_alike = false;  // all but `label` holds for the next tile too, if its rows all have a class

  void set(int i, const RowPlan& plan, double grad_scale) {
    // Without a hard part: -1, since a class of that index would get a gradient of -0.
    label[i] = static_cast<T>(plan.hard ? plan.label : -1);
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
  // Rows [first, first + count). Lanes beyond the last row repeat it, which needs no branch in the loops;
  // their results are not used.
  void fill(const KdCall<T>& call, const Plans<T>& plans, std::int64_t first, int count) {
    const auto row = [&](int i) { return first + (i < count ? i : count - 1); };
    if (!plans.are_simple()) {
      for (int i = 0; i < kCount; ++i) {
        const RowPlan plan = plans[row(i)];
        // A row that does not count may hold any temperature.
        if (call.taus != nullptr) set(i, Temperature<T>(plan.counts ? tau_of(call, row(i)) : 1));
        set(i, plan, call.grad_scale);
      }
      return;
    }
    const bool alike = plans.read_labels(first, count, label);
    for (int i = count; i < kCount; ++i) label[i] = label[count - 1];
    if (alike && still_alike) return;
    alignas(64) double alpha[kCount];
    const auto read = [&](const double* x, double otherwise, double* to) {
      if (x != nullptr && count == kCount)
        __builtin_memcpy(to, x + first, sizeof alpha);
      else
        for (int i = 0; i < kCount; ++i) to[i] = x == nullptr ? otherwise : x[row(i)];
    };
    read(call.sample_weight, 1, weight), read(call.alphas, call.alpha, alpha);
    set_simple(call, alpha);
    still_alike = alike && call.sample_weight == nullptr && call.alphas == nullptr && !plans.blended();
  }
  // As Plans makes them, of labels, weights and alphas.
  void set_simple(const KdCall<T>& call, const double* alpha) {
    using D = Lanes<double>;
    alignas(64) double labels[kCount], needs_hard[kCount], needs_soft[kCount], times_tau[kCount];
    store_wide(labels, load(label));
    for (int i = 0; i < kCount; i += D::kCount) {
      const D y = load(labels + i), zero(0.0), one(1.0);
      const D own = where(y == D(kPadding), zero, load(weight + i));
      const auto x =
          part_weights(call, own, load(alpha + i), call.labels.are_soft() ? zero == zero : zero <= y);
      store(weight + i, own), store(hard_weight + i, x.hard), store(soft_weight + i, x.soft);
      store(needs_hard + i, x.needs_hard), store(needs_soft + i, x.needs_soft);
      store(times_tau + i, x.soft * D(static_cast<double>(tau[0])));
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
