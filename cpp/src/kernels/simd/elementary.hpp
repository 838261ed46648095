// exp, expm1 and log on Lanes, for the ranges that the loss needs.
//
// Valid ranges and largest errors are promised in docs/accuracy.csv, which the tests read.
#pragma once

#include "lanes.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// ---- Constants of each type

template <class T>
struct Format;
template <>
struct Format<float> {
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr double kLargest = 0x1.fffffep127;
  static constexpr double kHalfUlp = 0x1p-24;  // of 1
  static constexpr std::uint32_t kOne = 0x3f800000u;
  static constexpr std::uint32_t kSqrtHalf = 0x3f3504f3u;
  static constexpr std::uint32_t kIntoMantissa =
      0x4b000000u;                              // 2^23: an integer or-ed in reads as 2^23 + integer
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kTwoToMantissaBits = 8388608.0f;
  static constexpr float kHeadroomExponent = 64.0f;
  static constexpr float kInverseHeadroom = 0x1p-64f;  // 2^-kHeadroomExponent
  static constexpr float kLn2 = 0x1.62e430p-1f;
  static constexpr float kLn2High = 0x1.62e400p-1f;
  static constexpr float kLn2Low = 0x1.7f7d1cp-20f;
};
template <>
struct Format<double> {
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr double kLargest = 0x1.fffffffffffffp1023;
  static constexpr double kHalfUlp = 0x1p-53;
  static constexpr std::uint64_t kOne = 0x3ff0000000000000u;
  static constexpr std::uint64_t kSqrtHalf = 0x3fe6a09e667f3bcdu;
  static constexpr std::uint64_t kIntoMantissa = 0x4330000000000000u;
  static constexpr double kRound = 6755399441055744.0;
  static constexpr double kTwoToMantissaBits = 4503599627370496.0;
  static constexpr double kHeadroomExponent = 200.0;
  static constexpr double kInverseHeadroom = 0x1p-200;
  static constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  static constexpr double kLn2High = 0x1.62e42fee00000p-1;
  static constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
};

// A polynomial in x, highest power first: Horner's rule in x^2, on pairs of coefficients. Its chain of
// dependent operations, which limits a loop's speed, is half as long as that of Horner's rule in x. It rounds
// twice at the end, so callers add the leading terms themselves.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> pairs(Lanes<T, P>, Lanes<T, P>, Lanes<T, P> value) {
  return value;
}
template <class T, int P, class... Rest>
KDLOSS_INLINE Lanes<T, P> pairs(Lanes<T, P> x, Lanes<T, P> square, Lanes<T, P> value, T odd, T even,
                                Rest... rest) {
  using L = Lanes<T, P>;
  return pairs(x, square, fma(value, square, fma(L(odd), x, L(even))), rest...);
}
template <class T, int P, class... Rest>
KDLOSS_INLINE Lanes<T, P> polynomial(Lanes<T, P> x, T highest, T next, Rest... rest) {
  using L = Lanes<T, P>;
  if constexpr (sizeof...(Rest) % 2 == 0)
    return pairs(x, x * x, fma(L(highest), x, L(next)), rest...);
  else
    return pairs(x, x * x, L(highest), next, rest...);
}

// ---- exp

// (2^r - 1 - r ln 2) / r^2 on [-1/2, 1/2], so that 2^r - 1 is minimax: relative error 1.1e-8 and 1.8e-17.
template <int P>
KDLOSS_INLINE Lanes<float, P> exp2_rest(Lanes<float, P> r) {
  return polynomial(r, 0x1.4308fcp-13f, 0x1.5f07c8p-10f, 0x1.3b2ba0p-7f, 0x1.c6af6ep-5f, 0x1.ebfbdep-3f);
}
template <int P>
KDLOSS_INLINE Lanes<double, P> exp2_rest(Lanes<double, P> r) {
  return polynomial(r, 0x1.e8cac688006c5p-32, 0x1.e605e23b52b5dp-28, 0x1.b525a094637a3p-24,
                    0x1.62bfd4acdb99ep-20, 0x1.ffcbfc1e9e6c7p-17, 0x1.430913095b766p-13,
                    0x1.5d87fe78b2136p-10, 0x1.3b2ab6fba1e36p-7, 0x1.c6b08d704a08ep-5, 0x1.ebfbdff82c598p-3);
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> exp2m1(Lanes<T, P> r) {
  return fma(exp2_rest(r), r * r, r * Lanes<T, P>(Format<T>::kLn2));
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> exp2(Lanes<T, P> r) {
  return fma(exp2_rest(r), r * r, fma(r, Lanes<T, P>(Format<T>::kLn2), Lanes<T, P>(1)));
}

template <class T, int P>
KDLOSS_INLINE Lanes<T, P> power_of_two(Lanes<T, P> rounded) {
  // The rounded sum holds the biased exponent in its lowest bits; the shift drops everything else.
  KDLOSS_EACH_PART rounded.part[i] = (typename Lanes<T, P>::Native)(
      (typename Lanes<T, P>::NativeUint)rounded.part[i] << Format<T>::kMantissaBits);
  return rounded;
}

// value 2^n, value and result normal, where rounded = kRound + n: n goes into the exponent's bits.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> times_power_of_two(Lanes<T, P> value, Lanes<T, P> rounded) {
  using L = Lanes<T, P>;
  KDLOSS_EACH_PART value.part[i] =
      (typename L::Native)((typename L::NativeUint)value.part[i] +
                           ((typename L::NativeUint)rounded.part[i] << Format<T>::kMantissaBits));
  return value;
}

// x k = n + r with |r| <= 1/2, n whole and rounded = kRound + exponent + n. r is x k - n rounded once or
// twice, with a fused multiply-add or without.
template <class T, int P = kParts>
struct Exponent {
  Lanes<T, P> r, rounded;
  KDLOSS_INLINE Exponent(Lanes<T, P> x, Lanes<T, P> k, T exponent = 0) {
    const Lanes<T, P> rounder(Format<T>::kRound + exponent);
    rounded = fma(x, k, rounder);
    if constexpr (kFused) {
      r = fma(x, k, rounder - rounded);
    } else {
      const Lanes<T, P> product = x * k;
      r = (product - (rounded - rounder)) + product_error(x, k, product);
    }
  }
};

// 2^(x k) where that is a normal number; with k = log2(e) / tau it is exp(x / tau). A NaN may give a number.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> exp_normal(const Exponent<T, P>& x) {
  return times_power_of_two(exp2(x.r), x.rounded);
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> exp_normal(Lanes<T, P> x, Lanes<T, P> k) {
  return exp_normal(Exponent<T, P>(x, k));
}

// a 2^(x k), and that less a without cancellation, for positive a, where both are normal numbers.
template <class T, int P>
struct Grown {
  Lanes<T, P> value, growth;
};
template <class T, int P>
KDLOSS_INLINE Grown<T, P> grow(Lanes<T, P> a, const Exponent<T, P>& x) {
  const Lanes<T, P> fraction = exp2m1(x.r), scaled = times_power_of_two(a, x.rounded);
  return {fma(fraction, scaled, scaled), fma(fraction, scaled, scaled - a)};
}

// The x at which 2^(x k) is taken as 0: the biased exponent is 0 there, so that the scale is 0 and no
// denormal number comes up.
template <class T>
T zero_at(double k, double headroom_exponent) {
  const double x = -(Format<T>::kBias + headroom_exponent) / k;
  return static_cast<T>(x < -Format<T>::kLargest ? -Format<T>::kLargest : x);
}

// 2^(x k + exponent), 0 where x <= zero = zero_at(k, exponent); NaN gives NaN.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> exp_rebiased(Lanes<T, P> x, Lanes<T, P> k, Lanes<T, P> zero, T exponent) {
  using F = Format<T>;
  x = max(zero, x);  // in this order a NaN stays
  const Exponent<T, P> reduced(x, k, static_cast<T>(F::kBias + exponent));
  const Lanes<T, P> scale = power_of_two(reduced.rounded);
  return fma(exp2m1(reduced.r), scale, scale);
}

// 2^(x k) for any x <= 0, 0 below 2^-126 (float) or 2^-1022; -inf gives 0. zero = zero_at(k, 0).
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> exp_to_zero(Lanes<T, P> x, Lanes<T, P> k, Lanes<T, P> zero) {
  return exp_rebiased(x, k, zero, T(0));
}

// exp_to_zero() with gradual underflow, by way of 2^64 (float) or 2^200 times as much, which still has all
// its digits. zero = zero_at(k, kHeadroomExponent).
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> exp_any(Lanes<T, P> x, Lanes<T, P> k, Lanes<T, P> zero) {
  return exp_rebiased(x, k, zero, Format<T>::kHeadroomExponent) * Lanes<T, P>(Format<T>::kInverseHeadroom);
}

// (e^u - 1 - u) / u^2 for |u| <= 1, minimax; relative error 4.3e-9 and 1.2e-17.
template <int P>
KDLOSS_INLINE Lanes<float, P> expm1_remainder_over_square(Lanes<float, P> u) {
  using L = Lanes<float, P>;
  const L rest = polynomial(u, 0x1.7416f4p-19f, 0x1.a9622ap-16f, 0x1.a028cap-13f, 0x1.6bffb0p-10f,
                            0x1.1110e0p-7f, 0x1.55557ap-5f);
  return fma(fma(rest, u, L(0x1.555556p-3f)), u, L(0x1.0p-1f));
}
template <int P>
KDLOSS_INLINE Lanes<double, P> expm1_remainder_over_square(Lanes<double, P> u) {
  using L = Lanes<double, P>;
  const L rest = polynomial(u, 0x1.b054467812871p-41, 0x1.997e1d4cfef23p-37, 0x1.6128d47a4b00dp-33,
                            0x1.1ee5774d439c0p-29, 0x1.ae6442bf7d260p-26, 0x1.27e50672b2ea1p-22,
                            0x1.71de3a72396edp-19, 0x1.a01a0190d4e30p-16, 0x1.a01a019ff4eefp-13,
                            0x1.6c16c16c20d88p-10, 0x1.111111111124bp-7, 0x1.5555555555506p-5);
  return fma(fma(rest, u, L(0x1.5555555555555p-3)), u, L(0x1.0p-1));
}

// ---- log

// (2 atanh(s) / s - 2) / s^2 as a polynomial in z = s^2 <= 0.0295.
template <int P>
KDLOSS_INLINE Lanes<float, P> atanh_tail(Lanes<float, P> z) {
  return polynomial(z, 0x1.dddb4cp-3f, 0x1.245c00p-2f, 0x1.9999ecp-2f, 0x1.555556p-1f);
}
template <int P>
KDLOSS_INLINE Lanes<double, P> atanh_tail(Lanes<double, P> z) {
  return polynomial(z, 0x1.0c0d82664d80dp-3, 0x1.0fbd97af7863ap-3, 0x1.3b1c3f5c1ea1ap-3, 0x1.745cf8d2969fap-3,
                    0x1.c71c7201d90e3p-3, 0x1.24924924767ecp-2, 0x1.9999999999a3ap-2, 0x1.5555555555555p-1);
}

// log(u + c) for normal u > 0 up to 2^(largest exponent) sqrt(2), where c is what rounding took from u (0 if
// nothing); inf and NaN give NaN. With u = 1 + x rounded and c = x - (u - 1) this is log1p(x), accurate also
// where x is tiny.
template <class T>
__attribute__((noinline)) Vector<T> log_of_part(Vector<T> u, Vector<T> c);
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> log_of_sum(Lanes<T, P> u, Lanes<T, P> c) {
  using F = Format<T>;
  using L = Lanes<T, P>;
  if constexpr (P > 2) {  // many parts would be much code, for what no loop over classes does
    for (int i = 0; i < P; ++i) set_part(u, i, log_of_part(part_of(u, i), part_of(c, i)));
    return u;
  }
  L exponent, m, scale;  // u = m / scale
  KDLOSS_EACH_PART {
    const typename L::NativeUint bits = (typename L::NativeUint)u.part[i];
    const typename L::NativeUint e = (bits + (F::kOne - F::kSqrtHalf)) >> F::kMantissaBits;
    exponent.part[i] = (typename L::Native)(e | F::kIntoMantissa) - (F::kTwoToMantissaBits + F::kBias);
    m.part[i] = (typename L::Native)(bits - (e << F::kMantissaBits) + F::kOne);  // in [sqrt(1/2), sqrt(2))
    scale.part[i] = (typename L::Native)((2 * F::kBias - e) << F::kMantissaBits);
  }
  // log(1 + f) = 2 atanh(s), s = f / (2 + f), written as f minus a small correction; c / u is near enough c *
  // scale * (1 - f).
  const L f = m - L(1), s = f / (L(2) + f), z = s * s, half_square = L(T(0.5)) * f * f;
  const L tail = s * fma(z, atanh_tail(z), half_square);
  const L low = fma(exponent, L(F::kLn2Low), c * scale * (L(1) - f));
  return fma(exponent, L(F::kLn2High), f - (half_square - (tail + low))) + (u - u);
}
template <class T>
Vector<T> log_of_part(Vector<T> u, Vector<T> c) {
  return log_of_sum(u, c);
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> log1p(Lanes<T, P> x) {
  const Lanes<T, P> u = Lanes<T, P>(1) + x;
  return log_of_sum(u, x - (u - Lanes<T, P>(1)));
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
