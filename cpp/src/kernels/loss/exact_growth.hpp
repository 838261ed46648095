// D = sum of et expm1(v), added once more in a wider type, for the gradient of rows in which it balances.
//
// In a class to which both models give most of their mass, p - q is essentially -D es / (Zs Zt). Where the
// terms of D cancel, that entry is far smaller than they are, and their rounding errors dominate it: those of
// hundreds of classes, if all are rounded alike, add up to more than the promised error. So D is summed
// again: floats in double, doubles in pairs of doubles.
#pragma once

#include "formula.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// ---- A number as the sum of two doubles, some 100 bits: slow, and only for what follows.
struct Pair {
  double high, low;
};
KDLOSS_INLINE Pair quick_sum(double a, double b) {  // abs(a) >= abs(b)
  const double sum = a + b;
  return {sum, b - (sum - a)};
}
KDLOSS_INLINE Pair exact_sum(double a, double b) {
  const double sum = a + b, of_b = sum - a;
  return {sum, (a - (sum - of_b)) + (b - of_b)};
}
KDLOSS_INLINE Pair exact_product(double a, double b) {
  const Lanes<double, 1> x(a), y(b);
  const Lanes<double, 1> product = x * y;
  return {first(product), first(product_error(x, y, product))};
}
KDLOSS_INLINE Pair operator+(Pair a, Pair b) {
  const Pair sum = exact_sum(a.high, b.high);
  return quick_sum(sum.high, sum.low + (a.low + b.low));
}
KDLOSS_INLINE Pair operator*(Pair a, Pair b) {
  const Pair product = exact_product(a.high, b.high);
  return quick_sum(product.high, product.low + (a.high * b.low + a.low * b.high));
}
KDLOSS_INLINE Pair operator*(Pair a, double power_of_two) {
  return {a.high * power_of_two, a.low * power_of_two};
}
KDLOSS_INLINE Pair operator/(Pair a, double b) {
  const double quotient = a.high / b;
  const Pair back = exact_product(quotient, b);
  return quick_sum(quotient, ((a.high - back.high) - back.low + a.low) / b);
}

// exp(x) - 1 for |x| <= 1: the power series of x / 64, and (1 + m)^2 - 1 = m (2 + m) six times.
inline Pair exact_expm1(Pair x) {
  x = x * 0x1p-6;
  Pair m{0, 0};
  for (int n = 13; n > 0; --n) m = (Pair{1, 0} + m) * x / n;
  for (int i = 0; i < 6; ++i) m = m * (Pair{2, 0} + m);
  return m;
}
// exp(x) for x <= 0, 0 where it is no normal number.
inline Pair exact_exp(Pair x) {
  if (!(x.high > -708)) return {0, 0};
  constexpr Pair kLn2{0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};
  const auto n = static_cast<std::int64_t>(x.high / kLn2.high - 0.5);
  const Pair rest = x + kLn2 * Pair{static_cast<double>(-n), 0};
  const auto bits = static_cast<std::uint64_t>(n + Format<double>::kBias) << Format<double>::kMantissaBits;
  double scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return (Pair{1, 0} + exact_expm1(rest)) * scale;
}

// ---- D of one row, whose classes lie `stride` apart; ms and mt are its largest logits
inline double exact_growth(const double* s, const double* t, std::int64_t stride, std::int64_t classes,
                           double ms, double mt, double tau) {
  Pair d{0, 0};
  for (std::int64_t i = 0; i < classes * stride; i += stride) {
    const Pair s_below = exact_sum(s[i], -ms), t_below = exact_sum(t[i], -mt);
    const Pair et = exact_exp(t_below / tau), v = (s_below + t_below * -1.0) / tau;
    const bool is_small = v.high > -1 && v.high < 1;
    d = d + (is_small ? et * exact_expm1(v) : exact_exp(s_below / tau) + et * -1.0);
  }
  return d.high;
}
inline double exact_growth(const float* s, const float* t, std::int64_t stride, std::int64_t classes,
                           float ms, float mt, double tau) {
  using L = Lanes<double>;
  constexpr std::int64_t n = L::kCount;
  const Temperature<double> temperature(tau);
  const Frame<double> frame(L(static_cast<double>(ms)), L(static_cast<double>(mt)), temperature);
  const L zero(zero_at<double>(kLog2E / temperature.tau, 0));
  Total<L> d;
  for (std::int64_t c = 0; c < classes; c += n) {
    alignas(64) double s_wide[n], t_wide[n];
    for (std::int64_t i = 0; i < n; ++i) {  // beyond the last class the largest logits, whose term is 0
      const bool is_class = c + i < classes;
      s_wide[i] = static_cast<double>(is_class ? s[(c + i) * stride] : ms);
      t_wide[i] = static_cast<double>(is_class ? t[(c + i) * stride] : mt);
    }
    d.add(any_terms(load(s_wide), load(t_wide), frame, zero, 0.0).de);
  }
  return sum(d.with(L(0)));
}

// ---- Whether a row needs it
// An entry p_c - q_c = (de - (D / Zs) es) / Zt is off by p_c / Zt times the error of D, which is some
// half-ulps of sum |de|, as many as the exponents are large. `depth` is how far down the teacher's logits
// lie, over tau. Of C classes sum |de| is at most C times the largest entry, so that most rows need no look
// at the terms.
template <class T>
struct Balance {
  Lanes<T> sum_abs = Lanes<T>(0), most = Lanes<T>(0);  // sum |de|, and the largest |de - (D / Zs) es|
  KDLOSS_INLINE void add(Lanes<T> es, Lanes<T> de, Lanes<T> ratio) {
    sum_abs = sum_abs + abs(de);
    most = max(abs(de - ratio * es), most);
  }
};
template <class T>
KDLOSS_INLINE Lanes<T> rounding_of_d(Lanes<T> sum_abs, Lanes<T> depth, Lanes<T> zs) {
  return sum_abs * (min(depth, Lanes<T>(Threshold<T>::kTeacherDepth)) + Lanes<T>(T(4))) / zs;
}
template <class T>
KDLOSS_INLINE Mask<T> may_balance(T classes, Lanes<T> depth, Lanes<T> zs) {
  return Lanes<T>(Threshold<T>::kBalance) < rounding_of_d(Lanes<T>(classes), depth, zs);
}
template <class T>
KDLOSS_INLINE Mask<T> balances(Lanes<T> sum_abs, Lanes<T> most, Lanes<T> depth, Lanes<T> zs) {
  return Lanes<T>(Threshold<T>::kBalance) * most < rounding_of_d(sum_abs, depth, zs);
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
