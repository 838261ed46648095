// Half-precision numbers to floats and back, one at a time; and functions called by an array's type.
//
// A half has a sign, 5 (or 8, in BFloat16) bits of exponent and 10 (or 7) of mantissa; all of them are
// floats. Functions here are static: the linker must not merge copies that were compiled for different
// instruction sets.
#pragma once

#include <cstdint>

#include "kdloss/views.hpp"

namespace kdloss {

#define KDLOSS_STATIC static inline __attribute__((always_inline))

KDLOSS_STATIC float as_float(std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
KDLOSS_STATIC std::uint32_t as_bits(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

KDLOSS_STATIC float widened(Float16 h) {
  const std::uint32_t sign = (h.bits & 0x8000u) << 16, rest = h.bits & 0x7fffu;
  // The factor rebiases the exponent, and makes a denormal half a normal float; inf and NaN need their own.
  const float scaled = as_float(rest << 13) * 0x1p112f;
  const std::uint32_t special = rest >= 0x7c00u ? 0x7f800000u : 0u;
  return as_float(sign | as_bits(scaled) | special);
}
KDLOSS_STATIC float widened(BFloat16 h) { return as_float(static_cast<std::uint32_t>(h.bits) << 16); }
KDLOSS_STATIC float widened(float x) { return x; }
KDLOSS_STATIC double widened(double x) { return x; }

// Rounded to the nearest, ties to even.
KDLOSS_STATIC void narrow(float x, Float16& to) {
  const std::uint32_t bits = as_bits(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  const std::uint32_t normal = (rest + 0xfffu + (rest >> 13 & 1u) - (112u << 23)) >> 13;
  // Below 2^-14 a half is a multiple of 2^-24, to which adding 1/2 rounds a float.
  const std::uint32_t denormal = as_bits(as_float(rest) + 0.5f) - 0x3f000000u;
  std::uint32_t half = rest < 0x38800000u ? denormal : normal;
  half = rest >= 0x477ff000u ? 0x7c00u : half;  // rounds to 65536 or more
  half = rest > 0x7f800000u ? 0x7e00u : half;
  to.bits = static_cast<std::uint16_t>(sign | half);
}
KDLOSS_STATIC void narrow(float x, BFloat16& to) {
  const std::uint32_t bits = as_bits(x), rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  to.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// Calls f(E{}) with the type of the elements.
template <class F>
KDLOSS_STATIC auto with_scalar(Scalar type, F&& f) {
  switch (type) {
    case Scalar::kFloat16:
      return f(Float16{});
    case Scalar::kBFloat16:
      return f(BFloat16{});
    case Scalar::kFloat64:
      return f(double{});
    default:
      return f(float{});
  }
}

#undef KDLOSS_STATIC

}  // namespace kdloss
