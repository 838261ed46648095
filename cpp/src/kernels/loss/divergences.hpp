// The divergences between student and teacher, class by class.
//
// With q the teacher's probability, p the student's, u = log(p / q), m = beta q + (1 - beta) p, each is a sum
//
//     KL(q || p)   kl            q (expm1(u) - u)
//     KL(p || q)   reverse_kl    p (expm1(-u) + u)
//     JS           js            beta q (expm1(a) - a) + (1 - beta) p (expm1(b) - b)
//                                a = log(m / q) = log1p((1 - beta) (p - q) / q)
//                                b = log(m / p) = log1p(beta (q - p) / p) where u is small
//     TV           tv            abs(p - q) / 2
//
// of terms that are >= 0 and do not cancel near the teacher, given exact q, p - q and u. The soft loss is
// tau^2 times that. Its gradient is tau p (f - sum p f), where f is the derivative of the sum in p,
//
//     reverse_kl   u        js   (beta - 1) b        tv   sign(p - q) / 2
//
// A constant that is added to f in all classes of a row cancels there. So we subtract f of the top class, the
// student's largest, and the difference keeps its digits where that class has nearly all the mass. For kl the
// gradient is tau (p - q) at once.
//
// The mean squared difference of the logits, mse, is sum (s - t)^2 / classes: no softmax, no temperature.
#pragma once

#include "formula.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// What is known of a class. V is a Lanes of any type. q, p and their difference are multiples of themselves,
// by the same number for all classes of a row.
template <class V>
struct ClassNumbers {
  using Flag = decltype(V() == V());
  V q, p, difference;
  V u, tau_u;
  Flag u_is_small;     // below 1
  V step;              // u less that of the student's largest class
  Flag student_masks;  // masked by the student alone
  Flag teacher_masks;  // masked by the teacher alone
};

// Of the student's largest class.
template <class V>
struct TopClass {
  V q, p, difference;
};

// expm1(x) - x for |x| < 1.
template <class V>
KDLOSS_INLINE V remainder(V x) {
  return x * x * expm1_remainder_over_square(x);
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> zero_where(Mask<T, P> m, Lanes<T, P> x) {
  return where(m, Lanes<T, P>(0), x);
}
// No infinity, which has no logarithm here.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> finite(Lanes<T, P> x) {
  const Lanes<T, P> most(static_cast<T>(0.5 * Format<T>::kLargest));
  return where(most < x, most, x);
}
// a / b, where 0 / 0 is 0 and no quotient is infinite.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> ratio(Lanes<T, P> a, Lanes<T, P> b) {
  return zero_where(a == Lanes<T, P>(0), finite(a / b));
}

// What tells whether the rounding of log(Zs / Zt) counts, of one row or of the row in each lane.
template <class V>
struct Rounding {
  V soft;  // tau^2 times the divergence
  V tau;
  V tau_log_ratio;  // tau log(Zs / Zt), with either sign
  V least;          // the smallest |tau u|
  double half_ulp;  // of the type of the logits
};

// ---- The divergences. Where p and q are c times themselves, term() returns c tau times the class's term of
// the sum. slope() returns f - f(top). keeps_digits() is where the plain path's sum, and the gradient, are
// within reach (KL has near_kl_is_fit()).
struct ForwardKL {
  static constexpr bool kGradientIsPMinusQ = true;  // the gradient is tau (p - q)
  explicit ForwardKL(double) {}
  template <class V>
  KDLOSS_INLINE V term(const ClassNumbers<V>& x, V tau) const {
    const V far = fma(tau, x.difference, V(0) - zero_where(x.q == V(0), x.q * x.tau_u));
    const V near = x.q * x.tau_u * (x.u * expm1_remainder_over_square(x.u));
    return where(x.student_masks, V(__builtin_inf()), where(x.u_is_small, near, far));
  }
  template <class V>
  KDLOSS_INLINE V slope(const ClassNumbers<V>&, const TopClass<V>&) const {
    return V(0);
  }
};
struct ReverseKL {
  static constexpr bool kGradientIsPMinusQ = false;
  explicit ReverseKL(double) {}
  template <class V>
  KDLOSS_INLINE V term(const ClassNumbers<V>& x, V tau) const {
    const V far = zero_where(x.p == V(0), x.p * x.tau_u) - tau * x.difference;
    const V near = x.p * x.tau_u * (x.u * expm1_remainder_over_square(V(0) - x.u));
    return where(x.teacher_masks, V(__builtin_inf()), where(x.u_is_small, near, far));
  }
  template <class V>
  KDLOSS_INLINE V slope(const ClassNumbers<V>& x, const TopClass<V>&) const {
    return zero_where(x.teacher_masks, x.step);
  }
  template <class V>
  KDLOSS_INLINE auto keeps_digits(const Rounding<V>& x) const {
    return x.tau_log_ratio * x.tau_log_ratio * V(kNearRatio) <= x.soft;
  }
};
struct JensenShannon {
  static constexpr bool kGradientIsPMinusQ = false;
  double beta;
  explicit JensenShannon(double beta_) : beta(beta_) {}
  // By a logarithm what m is of the larger of p and q, which is bounded; the other from a - b = u.
  template <class V>
  KDLOSS_INLINE V term(const ClassNumbers<V>& x, V tau) const {
    const auto p_is_larger = V(0) < x.u;
    const V large = where(p_is_larger, x.p, x.q), little = where(p_is_larger, x.q, x.p);
    const V of_large = where(p_is_larger, V(1 - beta), V(beta)),
            of_little = where(p_is_larger, V(beta), V(1 - beta));
    const V change = abs(x.difference);
    const V share = of_little * ratio(where(x.u_is_small, V(0) - change, little), large);
    const V sum = where(x.u_is_small, V(1), of_large) + share;
    const V log = log_of_sum(sum, where(x.u_is_small, share - (sum - V(1)), V(0)));
    const auto side = [](V probability, V grown, V log) KDLOSS_INLINE_LAMBDA {
      return where(abs(log) < V(1), probability * remainder(log),
                   grown - zero_where(probability == V(0), probability * log));
    };
    return tau * (of_large * side(large, V(0) - of_little * change, log) +
                  of_little * side(little, of_large * change, log + abs(x.u)));
  }
  // f less that of the top class is (beta - 1) log(1 + w expm1(-step)), w the teacher's share of
  // m there.
  template <class V>
  KDLOSS_INLINE V slope(const ClassNumbers<V>& x, const TopClass<V>& top) const {
    const V inverse_m = V(1) / (V(beta) * top.q + V(1 - beta) * top.p);
    const V w = V(beta) * top.q * inverse_m, p_over_m = top.p * inverse_m;
    // Far from the top class, the sum has its digits where it is 1 and little more, or little at all.
    const auto is_near = (abs(x.step) < V(1)) & (V(0) < w), is_sure = w < V(0.5);
    const V share = where(is_near, w * (remainder(V(0) - x.step) - x.step),
                          finite(fma(V(beta) * p_over_m, ratio(x.q, x.p), where(is_sure, V(0) - w, V(0)))));
    const V sum = where(is_near | is_sure, V(1), V(1 - beta) * p_over_m) + share;
    return V(beta - 1) * log_of_sum(sum, where(is_near | is_sure, share - (sum - V(1)), V(0)));
  }
  template <class V>
  KDLOSS_INLINE auto keeps_digits(const Rounding<V>& x) const {
    return x.tau_log_ratio * x.tau_log_ratio * V(kNearRatio * (beta * (1 - beta))) <= x.soft;
  }
};
struct TotalVariation {
  template <class V>
  static KDLOSS_INLINE V half_sign(V x) {
    return where(x < V(0), V(-0.5), where(V(0) < x, V(0.5), V(0)));
  }
  static constexpr bool kGradientIsPMinusQ = false;
  explicit TotalVariation(double) {}
  template <class V>
  KDLOSS_INLINE V term(const ClassNumbers<V>& x, V tau) const {
    return tau * abs(x.difference) * V(0.5);
  }
  template <class V>
  KDLOSS_INLINE V slope(const ClassNumbers<V>& x, const TopClass<V>& top) const {
    return half_sign(x.difference) - half_sign(top.difference);
  }
  // The gradient depends on the sign of p - q.
  template <class V>
  KDLOSS_INLINE auto keeps_digits(const Rounding<V>& x) const {
    return (x.tau * abs(x.tau_log_ratio) * V(kNearShare) <= x.soft) &
           (V(kSign * x.half_ulp) * (abs(x.tau_log_ratio) + x.soft / x.tau) <= x.least);
  }
};

// Calls f(wrapped) with the type of a divergence that has a softmax, wrapped so that it need not be made.
template <class Kind>
struct Wrapped {
  using Type = Kind;
};
template <class F>
KDLOSS_INLINE auto with_divergence(Divergence divergence, F&& f) {
  switch (divergence) {
    case Divergence::kReverseKL:
      return f(Wrapped<ReverseKL>{});
    case Divergence::kJS:
      return f(Wrapped<JensenShannon>{});
    case Divergence::kTV:
      return f(Wrapped<TotalVariation>{});
    case Divergence::kKL:
    case Divergence::kMSE:  // which has none
      break;
  }
  return f(Wrapped<ForwardKL>{});
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
