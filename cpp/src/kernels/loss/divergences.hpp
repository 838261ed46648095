// The divergences between student and teacher, class by class.
//
// With q the teacher's probability, p the student's, u = log(p / q), m = beta q + (1 - beta) p, each is a sum
//
//     KL(q || p)   kl            q (expm1(u) - u)
//     KL(p || q)   reverse_kl    p (expm1(-u) + u)
//     JS           js            beta q (expm1(a) - a) + (1 - beta) p (expm1(b) - b)
//                                a = log(m / q) = log1p((1 - beta) (p - q) / q)
//                                b = log(m / p) = log1p(beta (q - p) / p)
//     TV           tv            abs(p - q) / 2
//
// of terms that are >= 0 and do not cancel near the teacher, given exact q, p - q and u. The soft loss is
// tau^2 times that. Its gradient is tau p (f - sum p f), where f is the derivative of the sum in p,
//
//     reverse_kl   u        js   (beta - 1) b        tv   sign(p - q) / 2
//
// less any number that all classes share: here less f of the student's largest class, so that the difference
// keeps its digits where that class has nearly all. For kl it is tau (p - q) at once.
//
// The distance of the logits, mse, is sum (s - t)^2 / classes, without a softmax or a temperature.
#pragma once

#include "formula.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// What is known of a class. q, p and their difference are times tau and some headroom, lest they underflow
// where tau is large.
struct ClassNumbers {
  Lanes<double> q, p, difference;
  Lanes<double> u, tau_u;
  Mask<double> u_is_small;   // below 1
  Lanes<double> step;        // u less that of the student's largest class
  Mask<double> wanted_only;  // masked by the student alone
  Mask<double> unwanted;     // masked by the teacher alone
};

// x^2 (expm1(x) - x) / x^2 for |x| < 1.
KDLOSS_INLINE Lanes<double> remainder(Lanes<double> x) { return x * x * expm1_remainder_over_square(x); }
KDLOSS_INLINE Lanes<double> zero_where(Mask<double> m, Lanes<double> x) {
  return where(m, Lanes<double>(0.0), x);
}
// a / b, where 0 / 0 is 0 and no quotient is infinite.
KDLOSS_INLINE Lanes<double> ratio(Lanes<double> a, Lanes<double> b) {
  using L = Lanes<double>;
  const L quotient = where(b == L(0.0), L(1e300), a / b);
  return zero_where(a == L(0.0), where(L(1e300) < quotient, L(1e300), quotient));
}

// ---- Each: term() is its term times tau^2, with the headroom, and slope() is f.
struct ForwardKL {
  static constexpr bool kIsDifference = true;  // the gradient is tau (p - q)
  explicit ForwardKL(double) {}
  KDLOSS_INLINE Lanes<double> term(const ClassNumbers& x, Lanes<double> tau) const {
    using L = Lanes<double>;
    const L far = fma(tau, x.difference, L(0.0) - zero_where(x.q == L(0.0), x.q * x.tau_u));
    const L near = x.q * x.tau_u * (x.u * expm1_remainder_over_square(x.u));
    return where(x.wanted_only, L(infinity<double>()), where(x.u_is_small, near, far));
  }
  KDLOSS_INLINE Lanes<double> slope(const ClassNumbers&) const { return Lanes<double>(0.0); }
};
struct ReverseKL {
  static constexpr bool kIsDifference = false;
  explicit ReverseKL(double) {}
  KDLOSS_INLINE Lanes<double> term(const ClassNumbers& x, Lanes<double> tau) const {
    using L = Lanes<double>;
    const L far = zero_where(x.p == L(0.0), x.p * x.tau_u) - tau * x.difference;
    const L near = x.p * x.tau_u * (x.u * expm1_remainder_over_square(L(0.0) - x.u));
    return where(x.unwanted, L(infinity<double>()), where(x.u_is_small, near, far));
  }
  KDLOSS_INLINE Lanes<double> slope(const ClassNumbers& x) const { return zero_where(x.unwanted, x.step); }
};
struct JensenShannon {
  static constexpr bool kIsDifference = false;
  double beta;
  explicit JensenShannon(double beta_) : beta(beta_) {}
  KDLOSS_INLINE Lanes<double> b(const ClassNumbers& x) const {
    return log1p(Lanes<double>(beta) * ratio(Lanes<double>(0.0) - x.difference, x.p));
  }
  KDLOSS_INLINE Lanes<double> term(const ClassNumbers& x, Lanes<double> tau) const {
    using L = Lanes<double>;
    const L of_q(beta), of_p(1 - beta);
    const L log_q = log1p(of_p * ratio(x.difference, x.q)), log_p = b(x);
    const auto side = [](L probability, L change, L log) KDLOSS_INLINE_LAMBDA {
      return where(abs(log) < L(1.0), probability * remainder(log),
                   change - zero_where(probability == L(0.0), probability * log));
    };
    return tau * (of_q * side(x.q, of_p * x.difference, log_q) +
                  of_p * side(x.p, L(0.0) - of_q * x.difference, log_p));
  }
  KDLOSS_INLINE Lanes<double> slope(const ClassNumbers& x) const { return Lanes<double>(beta - 1) * b(x); }
};
struct TotalVariation {
  static constexpr bool kIsDifference = false;
  explicit TotalVariation(double) {}
  KDLOSS_INLINE Lanes<double> term(const ClassNumbers& x, Lanes<double> tau) const {
    return tau * abs(x.difference) * Lanes<double>(0.5);
  }
  KDLOSS_INLINE Lanes<double> slope(const ClassNumbers& x) const {
    using L = Lanes<double>;
    return where(x.difference < L(0.0), L(-0.5), where(L(0.0) < x.difference, L(0.5), L(0.0)));
  }
};
struct LogitDistance {
  explicit LogitDistance(double) {}
};

// Calls f(type) with the divergence's own, wrapped so that it need not be made.
template <class D>
struct Wrapped {
  using Type = D;
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
    case Divergence::kMSE:
      return f(Wrapped<LogitDistance>{});
    default:
      return f(Wrapped<ForwardKL>{});
  }
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
