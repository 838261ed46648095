// The knowledge-distillation loss of one row, and its gradient: the formulas, class by class.
//
// With student logits s, teacher logits t, label y, temperature tau and weight alpha
//
//     p1 = softmax(s)      p = softmax(s / tau)      q = softmax(t / tau)
//     hard = -log p1[y]
//     soft = tau^2 KL(q || p) = tau^2 sum q log(q / p)              the teacher first
//     loss = alpha hard + (1 - alpha) soft
//     grad = alpha (p1 - onehot(y)) + (1 - alpha) tau (p - q)
//
// Written like this, differences of nearly equal numbers would eat the digits of every row whose student is
// close to its teacher, or sure of itself. With ms and mt the largest logits of the row,
//
//     gap  = (s - t) - (ms - mt)           v = gap / tau = log(es / et)
//     et   = exp((t - mt) / tau)           Zt = sum et
//     es   = et exp(v)                     Zs = sum es
//     de   = et expm1(v) = es - et         D  = sum de = Zs - Zt
//     log_ratio = log(Zs / Zt) = log1p(D / Zt)        u = v - log_ratio = log(p / q)
//
// nothing cancels:
//
//     p - q = (de - (D / Zs) es) / Zt
//     KL    = log_ratio - sum q v     where that difference keeps its digits (kl_is_far), else
//     KL    = sum q (expm1(u) - u)    every term of which is >= 0
//     hard  = log1p(others)           others = sum over c != y of exp(s - ms), when y is the largest, else
//     hard  = log(others + exp(s_y - ms)) + (ms - s_y)
//     p1[y] - 1 = -others / total     so that the gradient's rows sum to zero
//
// Each function below is one of these lines for a whole Lanes value: sixteen classes of one row, or one class
// of sixteen rows.
#pragma once

#include "../row/temperature.hpp"
#include "../simd/elementary.hpp"
#include "thresholds.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// An infinite constant, without the standard library.
template <class T>
KDLOSS_INLINE T infinity() {
  return static_cast<T>(__builtin_inf());
}

template <class T, int P = kParts>
struct Difference {
  Lanes<T, P> value, error;  // value + error = a - b exactly
};
template <class T, int P>
KDLOSS_INLINE Difference<T, P> two_diff(Lanes<T, P> a, Lanes<T, P> b) {
  const Lanes<T, P> d = a - b, minus_b = d - a;
  return {d, (a - (d - minus_b)) - (b + minus_b)};
}

// ---- What is known before a row's classes are read

// The frame that a row's logits are seen in: their largest values, and the difference of these.
template <class T, int P = kParts>
struct Frame {
  Lanes<T, P> ms, mt;
  Difference<T, P> dm;  // ms - mt
  Lanes<T, P> k, inverse_tau;
  Frame() = default;
  Frame(Lanes<T, P> ms_, Lanes<T, P> mt_, Lanes<T, P> k_, Lanes<T, P> inverse_tau_)
      : ms(ms_), mt(mt_), dm(two_diff(ms_, mt_)), k(k_), inverse_tau(inverse_tau_) {}
  Frame(Lanes<T, P> ms_, Lanes<T, P> mt_, const Temperature<T>& temperature)
      : Frame(ms_, mt_, temperature.k, temperature.inverse) {}
};

template <class T>
KDLOSS_INLINE Frame<T, 1> part_of(const Frame<T>& whole, int i) {
  return {part_of(whole.ms, i), part_of(whole.mt, i), part_of(whole.k, i), part_of(whole.inverse_tau, i)};
}

// ---- The terms of one class

template <class T, int P = kParts>
struct Terms {
  Lanes<T, P> et, es, de, gap;
};

// (s - t) - (ms - mt), with the rounding errors of both differences kept, or without.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> logit_gap(const Difference<T, P>& d, const Frame<T, P>& frame) {
  return (d.value - frame.dm.value) + (d.error - frame.dm.error);
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> logit_gap(Lanes<T, P> s, Lanes<T, P> t, const Frame<T, P>& frame) {
  return logit_gap(two_diff(s, t), frame);
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> rounded_gap(Lanes<T, P> s, Lanes<T, P> t, const Frame<T, P>& frame) {
  return (s - t) - frame.dm.value;
}

// Whether the gaps without those errors may be good enough, and are, given their sum under et, `moved`. s - t
// is off by 2^-24 of |ms - mt| + |gap| at the most. The second is as much as a gap has of its own. The first
// is kept below 1e-6 (in float) in exp(v), and in its power where p1 is one, and below 1e-6 of the row's mean
// gap.
template <class T, int P>
KDLOSS_INLINE Mask<T, P> rounded_gap_is_in_reach(const Frame<T, P>& frame) {
  const Lanes<T, P> per_logit = max(frame.inverse_tau, Lanes<T, P>(1));
  return abs(frame.dm.value) * per_logit <= Lanes<T, P>(Threshold<T>::kOffset);
}
template <class T>
KDLOSS_INLINE bool rounded_gap_is_fit(const Frame<T>& frame, double moved, double zt) {
  const double offset = __builtin_fabs(static_cast<double>(first(frame.dm.value)));
  return offset * zt <= static_cast<double>(Threshold<T>::kOffset) * __builtin_fabs(moved);
}

// What et, es and de of a class begin with: its gap, and what becomes of its logits in the exponents.
template <class T, int P = kParts>
struct Reduced {
  Lanes<T, P> gap;
  Exponent<T, P> et, es_over_et;
  KDLOSS_INLINE Reduced(Lanes<T, P> t, Lanes<T, P> gap_, const Frame<T, P>& frame)
      : gap(gap_), et(t - frame.mt, frame.k), es_over_et(gap, frame.k) {}
};
template <class T, int P>
KDLOSS_INLINE Terms<T, P> normal_terms(const Reduced<T, P>& reduced) {
  Terms<T, P> x;
  x.et = exp_normal(reduced.et);
  x.gap = reduced.gap;
  const Grown<T, P> student = grow(x.et, reduced.es_over_et);
  x.es = student.value, x.de = student.growth;
  return x;
}
// e1 by an exponential of its own. Where tau is 1, 2 or 4 it is also es^tau, whose error is that of es tau
// times: 4 times its 5 half-ulps is 1.2e-6 in float.
template <class T, int P>
KDLOSS_INLINE Exponent<T, P> reduced_e1(Lanes<T, P> s_below) {
  return {max(Lanes<T, P>(-Threshold<T>::kHardDepth), s_below), Lanes<T, P>(static_cast<T>(kLog2E))};
}
// As what has grown from 1: nothing else would see a NaN, which exp_normal() may lose.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> normal_e1(const Exponent<T, P>& reduced) {
  return grow(Lanes<T, P>(1), reduced).value;
}

// et, es and de for any logits: masked ones (-inf), gaps of thousands, differences that overflow. All are
// 2^exponent times themselves, and 0 where 2^(x k) is: zero = zero_at(k, exponent).
template <class T, int P>
KDLOSS_INLINE Terms<T, P> any_terms(Lanes<T, P> s, Lanes<T, P> t, const Frame<T, P>& frame, Lanes<T, P> zero,
                                    T exponent) {
  using L = Lanes<T, P>;
  Terms<T, P> x;
  const L s_below = s - frame.ms, t_below = t - frame.mt;
  x.et = exp_rebiased(t_below, frame.k, zero, exponent);
  x.es = exp_rebiased(s_below, frame.k, zero, exponent);
  const L exact = logit_gap(s, t, frame);
  const L rounded = where(s_below == t_below, L(0), s_below - t_below);  // 0 where both are masked
  x.gap = where(abs(exact) < L(infinity<T>()), exact, rounded);
  const L v = x.gap * frame.inverse_tau;
  x.de = where(abs(v) < L(1), x.et * fma(v * v, expm1_remainder_over_square(v), v), x.es - x.et);
  return x;
}

// The terms of rows beyond reach in their own type: what underflows is 0. If the student masks a class whose
// teacher probability underflows to 0, et gap is 0 (-inf): `moved` becomes NaN, which sends the row to the
// careful path.
template <class T, int P>
KDLOSS_INLINE Terms<T, P> wide_terms(Lanes<T, P> s, Lanes<T, P> t, const Frame<T, P>& frame) {
  using L = Lanes<T, P>;
  const L minus_inf(-infinity<T>());
  Terms<T, P> x = any_terms(s, t, frame, L(T(-Format<T>::kBias)) / frame.k, T(0));
  x.gap = where((x.et == L(0)) & ~((s == minus_inf) & (minus_inf < t)), L(0), x.gap);
  return x;
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> wide_e1(Lanes<T, P> s_below) {
  using L = Lanes<T, P>;
  return exp_to_zero(s_below, L(static_cast<T>(kLog2E)), L(zero_at<T>(kLog2E, 0)));
}
template <class T, int P>
KDLOSS_INLINE Terms<T, P> where(Mask<T, P> m, const Terms<T, P>& yes, const Terms<T, P>& no) {
  Terms<T, P> x;
  x.et = where(m, yes.et, no.et), x.es = where(m, yes.es, no.es), x.de = where(m, yes.de, no.de);
  x.gap = where(m, yes.gap, no.gap);
  return x;
}

// ---- Sums over the classes, and what follows from them

template <class V>
struct Sums {
  V zt = V(0), zs = V(0), d = V(0);  // sum et, sum es, sum de
  V moved = V(0);                    // sum et gap = Zt tau sum q v
  V others = V(0), label_e1 = V(0);  // sum of e1 without the label's, and the label's

  void add(const Sums& x) {
    zt = zt + x.zt, zs = zs + x.zs, d = d + x.d, moved = moved + x.moved;
    others = others + x.others, label_e1 = label_e1 + x.label_e1;
  }
};
// Of runs of terms, but for those of e1.
template <class L>
struct Totals {
  Total<L> zt, zs, d, moved;

  KDLOSS_INLINE void add(const Sums<L>& run) {
    zt.add(run.zt), zs.add(run.zs), d.add(run.d), moved.add(run.moved);
  }
  KDLOSS_INLINE Sums<L> with(const Sums<L>& run) const {
    return {zt.with(run.zt), zs.with(run.zs), d.with(run.d), moved.with(run.moved)};
  }
};
// All but those of e1.
template <class T, int P>
KDLOSS_INLINE void add(Sums<Lanes<T, P>>& sums, const Terms<T, P>& x) {
  sums.zt = sums.zt + x.et;
  sums.zs = sums.zs + x.es;
  sums.d = sums.d + x.de;
  sums.moved = fma(x.et, x.gap, sums.moved);
}

template <class V>
struct SoftResult {
  V kl;          // log_ratio - sum q v
  V log_ratio;   // log(Zs / Zt)
  V inverse_zt;  // 1 / Zt
};
template <class T, int P>
KDLOSS_INLINE SoftResult<Lanes<T, P>> soft_result(const Sums<Lanes<T, P>>& sums, Lanes<T, P> inverse_tau) {
  using L = Lanes<T, P>;
  const L inverse_zt = L(1) / sums.zt, mean_de = sums.d * inverse_zt, sum1 = L(1) + mean_de;
  const Mask<T, P> near = abs(mean_de) <= L(T(kGrowth));
  const L log_ratio =
      log_of_sum(where(near, sum1, sums.zs * inverse_zt), where(near, mean_de - (sum1 - L(1)), L(0)));
  return {log_ratio - sums.moved * inverse_zt * inverse_tau, log_ratio, inverse_zt};
}

// Whether KL = log_ratio - sum q v keeps its digits; it is > 0 then for certain. NaN is not far.
template <class T, int P>
KDLOSS_INLINE Mask<T, P> kl_is_far(Lanes<T, P> kl, Lanes<T, P> abs_log_ratio) {
  return (Lanes<T, P>(T(kFarKl)) <= kl) & (abs_log_ratio * Lanes<T, P>(T(kFarRatio)) <= kl);
}

// The hard loss, from the sums and the label's distance below the largest logit.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> hard_result(const Sums<Lanes<T, P>>& sums, Lanes<T, P> label_below) {
  using L = Lanes<T, P>;
  const Mask<T, P> largest = label_below == L(0);
  const L sum1 = L(1) + sums.others;
  const L total = sums.others + sums.label_e1;
  return log_of_sum(where(largest, sum1, total), where(largest, sums.others - (sum1 - L(1)), L(0))) +
         where(largest, L(0), label_below);
}

// Whether the sum of k keeps its digits, with soft = tau^2 KL and the type's kTail given.
template <class T, int P>
KDLOSS_INLINE Mask<T, P> near_kl_is_fit(Lanes<T, P> soft, Lanes<T, P> tau_log_ratio_square, Lanes<T, P> tau,
                                        Lanes<T, P> tail) {
  using L = Lanes<T, P>;
  return (tail * (tau * tau) <= soft) & (tau_log_ratio_square * L(T(kNearRatio)) <= soft);
}
// Whether student and teacher are the same, in a row in reach: then there is nothing to round.
template <class T, int P>
KDLOSS_INLINE Mask<T, P> are_equal(const Sums<Lanes<T, P>>& sums, Lanes<T, P> soft) {
  using L = Lanes<T, P>;
  return (sums.d == L(0)) & (sums.moved == L(0)) & (soft == L(0));
}
// Whether et = es - de has the digits of et.
template <class T, int P>
KDLOSS_INLINE Mask<T, P> et_is_es_minus_de(Lanes<T, P> log_ratio) {
  return log_ratio <= Lanes<T, P>(T(kShrinkage));
}

// ---- KL, term by term

// tau^2 k, k = q (expm1(u) - u) >= 0, for a row of the plain path that is not far from its teacher.
// difference = p - q, and tau_u = tau u: squared before it is divided by tau, lest it underflow where tau is
// large.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> near_kl_term(Lanes<T, P> q, Lanes<T, P> tau_u, Lanes<T, P> difference,
                                       Lanes<T, P> tau, Lanes<T, P> inverse_tau) {
  const Lanes<T, P> u = tau_u * inverse_tau;
  const Lanes<T, P> small = q * (tau_u * tau_u) * expm1_remainder_over_square(u);
  return where(abs(u) < Lanes<T, P>(1), small, tau * tau * (difference - q * u));
}

// ---- The gradient

// hard_weight (p1 - onehot) + soft_weight tau (p - q) as a sum of multiples of e1, slope (de for KL) and es,
// when e1 at the label is replaced by -others.
template <class T, int P = kParts>
struct GradientFactors {
  Lanes<T, P> of_e1, of_slope, of_es;
};
template <bool Hard, bool Soft, class T, int P>
KDLOSS_INLINE Lanes<T, P> gradient(const GradientFactors<T, P>& factor, Lanes<T, P> e1, Lanes<T, P> slope,
                                   Lanes<T, P> es) {
  Lanes<T, P> g(T(0));
  if constexpr (Hard) g = fma(factor.of_e1, e1, g);  // never -0
  if constexpr (Soft) g = fma(factor.of_slope, slope, fma(factor.of_es, es, g));
  return g;
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
