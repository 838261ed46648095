// The loss for rows that no other path takes: infinite logits, NaN, temperatures at the extremes, losses made
// of mere tails, and a student that masks what its teacher hardly wants. One row at a time, in double,
// whatever the type of the arrays.
#pragma once

#include "hessian.hpp"
#include "kd_formula.hpp"
#include "kd_plan.hpp"
#include "layouts.hpp"
#include "staging.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// et, es and de are 2^kHeadroomExponent times themselves, so that tau q keeps its digits where q underflows.
template <bool Hard, bool Soft>
KDLOSS_INLINE Terms<double> careful_terms(Lanes<double> s, Lanes<double> t, const Frame<double>& frame,
                                          Lanes<double> zero) {
  using F = Format<double>;
  Terms<double> x;
  if constexpr (Soft) x = any_terms(s, t, frame, zero, F::kHeadroomExponent);
  if constexpr (Hard)
    x.e1 = exp_any(s - frame.ms, Lanes<double>(kLog2E),
                   Lanes<double>(zero_at<double>(kLog2E, F::kHeadroomExponent)));
  return x;
}

// near_kl_term() for any row, and the difference. All are times tau: tau q and tau p come from the
// exponentials and their headroom by factors tau / Zt and tau / Zs.
struct KlTerm {
  Lanes<double> k;           // tau^2 q (expm1(u) - u)
  Lanes<double> difference;  // tau (p - q)
};
KDLOSS_INLINE KlTerm careful_kl_term(Lanes<double> s, Lanes<double> t, const Terms<double>& x,
                                     const Frame<double>& frame, Lanes<double> log_ratio, Lanes<double> tau,
                                     Lanes<double> tau_over_zs, Lanes<double> tau_over_zt) {
  using L = Lanes<double>;
  const L q = x.et * tau_over_zt, p = x.es * tau_over_zs;
  const L u = x.gap * frame.inverse_tau - log_ratio, tau_u = x.gap - log_ratio * tau;
  const Mask<double> is_small = abs(u) < L(1.0);
  const L remainder = expm1_remainder_over_square(u);
  const L difference = where(is_small, q * fma(u * u, remainder, u), p - q);
  const L q_u = where(q == L(0.0), L(0.0), q * tau_u);  // u itself may be beyond the type's range
  const L k = where(is_small, q * tau_u * (u * remainder), fma(tau, difference, L(0.0) - q_u));
  const L minus_inf(-infinity<double>());
  const Mask<double> wanted_but_masked = (s == minus_inf) & (minus_inf < t);
  // + log_ratio: NaN where the whole student is masked.
  return {where(wanted_but_masked, L(infinity<double>()) + log_ratio, k), difference};
}

// A row's logits as doubles, filled up to whole Lanes by classes that both mask, which add exactly 0.
struct CarefulRow {
  double *s, *t, *grad, *p1, *p;  // p1 and p for the Hessian
  Span columns;

  static constexpr std::int64_t padded(std::int64_t classes) {
    constexpr std::int64_t n = Lanes<double>::kCount;
    return (classes + n - 1) / n * n;
  }
  static std::int64_t size(std::int64_t classes) { return 5 * padded(classes); }
  CarefulRow(double* scratch, std::int64_t classes)
      : s(scratch),
        t(s + padded(classes)),
        grad(t + padded(classes)),
        p1(grad + padded(classes)),
        p(p1 + padded(classes)),
        columns{0, padded(classes)} {}
};

template <class T>
void widen(const Matrix<const T>& from, std::int64_t row, std::int64_t classes, std::int64_t padded,
           double* to) {
  for (std::int64_t c = 0; c < classes; ++c) to[c] = static_cast<double>(*at(from, row, c));
  for (std::int64_t c = classes; c < padded; ++c) to[c] = -infinity<double>();
}

template <bool Hard, bool Soft>
RowParts careful_row(const CarefulRow& row, double exact_tau, const RowPlan& plan, double grad_scale,
                     bool probabilities) {
  using L = Lanes<double>;
  const Temperature<double> temperature(exact_tau);
  const L tau(temperature.tau), zero(temperature.zero);
  const std::int64_t label = plan.label;
  const auto at_label = [&](std::int64_t c) { return static_cast<std::uint64_t>(label - c) < L::kCount; };
  RowParts loss;

  L ms(-infinity<double>()), mt = ms;
  for_columns<double>(row.columns, [&](std::int64_t c, std::int64_t) {
    ms = max(load(row.s + c), ms);
    if constexpr (Soft) mt = max(load(row.t + c), mt);
  });
  const Frame<double> frame(L(largest(ms)), L(largest(mt)), temperature);

  Sums<L> lanes;
  double label_e1 = 0;
  for_blocks(row.columns.end, [&](Span block) KDLOSS_INLINE_LAMBDA {
    Sums<L> in_block;
    for_columns<double>(block, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA {
      const L s = load(row.s + c), t = Soft ? load(row.t + c) : L(0);
      Terms<double> x = careful_terms<Hard, Soft>(s, t, frame, zero);
      if (Hard && at_label(c)) {
        label_e1 = lane(x.e1, label - c);
        x.e1 = with_lane(x.e1, label - c, 0.0);
      }
      add<Hard, Soft>(in_block, x);
    });
    lanes.add(in_block);
  });
  Sums<L> sums;
  sums.zt = sum(lanes.zt), sums.zs = sum(lanes.zs), sums.d = sum(lanes.d);
  sums.others = sum(lanes.others), sums.label = label_e1;

  SoftResult<double> soft{L(0), L(0), L(0)};
  if constexpr (Soft) soft = soft_result(sums, frame.inverse_tau);
  if constexpr (Hard) loss.hard = first(hard_result(sums, frame.ms - L(row.s[Hard ? label : 0])));
  const L tau_over_zs = tau / sums.zs, tau_over_zt = tau / sums.zt;
  const L hard_factor = L(plan.hard_slope() * grad_scale) / (sums.others + sums.label);
  const L soft_factor(plan.soft_weight * grad_scale);

  L kl(0.0);
  for_blocks(row.columns.end, [&](Span block) KDLOSS_INLINE_LAMBDA {
    L in_block(0.0);
    for_columns<double>(block, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA {
      const L s = load(row.s + c), t = Soft ? load(row.t + c) : L(0);
      Terms<double> x = careful_terms<Hard, Soft>(s, t, frame, zero);
      L g(0.0);
      const L e1 = x.e1;
      if constexpr (Hard) {
        if (at_label(c) && !plan.keeps_p1) x.e1 = with_lane(x.e1, label - c, -first(sums.others));
        g = hard_factor * x.e1;
      }
      if constexpr (Soft) {
        const KlTerm term = careful_kl_term(s, t, x, frame, soft.log_ratio, tau, tau_over_zs, tau_over_zt);
        in_block = in_block + term.k;
        g = fma(soft_factor, term.difference, g);
      }
      store(row.grad + c, g);
      if (probabilities) {
        if constexpr (Hard) store(row.p1 + c, e1 / (sums.others + sums.label));
        if constexpr (Soft) store(row.p + c, x.es / sums.zs);
      }
    });
    kl = kl + in_block;
  });
  loss.soft = sum(kl);
  return loss;
}

// The same for row i of a chunk. What is written lies stride apart, or nowhere (null).
template <class T>
RowParts careful_row(const KdCall<T>& call, const Chunk<T>& chunk, std::int64_t i, const RowPlan& plan,
                     double* scratch, T* grad, T* hess, std::int64_t stride) {
  const CarefulRow row(scratch, call.classes);
  widen(chunk.student, i, call.classes, row.columns.end, row.s);
  if (plan.soft) widen(chunk.teacher, i, call.classes, row.columns.end, row.t);
  const double tau = tau_of(call, chunk.first + i);
  const RowParts loss = with_parts(plan.hard, plan.soft, [&](auto hard, auto soft) {
    return careful_row<hard.value, soft.value>(row, tau, plan, call.grad_scale, hess != nullptr);
  });
  for (std::int64_t c = 0; grad != nullptr && c < call.classes; ++c)
    grad[c * stride] = static_cast<T>(row.grad[c]);
  if (hess != nullptr) {
    with_parts(plan.hard, plan.soft, [&](auto hard, auto soft) {
      write_hessian<hard.value, soft.value>(InRow<double>{row.columns.end}, row.p1, row.p,
                                            Lanes<double>(plan.hard_slope() * call.hess_scale),
                                            Lanes<double>(plan.soft_weight * call.hess_scale), row.grad);
    });
    for (std::int64_t c = 0; c < call.classes; ++c) hess[c * stride] = static_cast<T>(row.grad[c]);
  }
  return loss;
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
