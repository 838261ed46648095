// Rows of the four float types, read into the type that is computed in and written back from it.
//
// Plain loops over one row, which the compiler turns into vectors. A half has a sign, 5 (or 8, in BFloat16)
// bits of exponent and 10 (or 7) of mantissa; all of them are floats.
#pragma once

#include "../kernel_table.hpp"
#include "transpose.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

KDLOSS_INLINE float as_float(std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
KDLOSS_INLINE std::uint32_t as_bits(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

KDLOSS_INLINE float widened(Float16 h) {
  const std::uint32_t sign = (h.bits & 0x8000u) << 16, rest = h.bits & 0x7fffu;
  // The factor rebiases the exponent, and makes a denormal half a normal float; inf and NaN need their own.
  const float scaled = as_float(rest << 13) * 0x1p112f;
  const std::uint32_t special = rest >= 0x7c00u ? 0x7f800000u : 0u;
  return as_float(sign | as_bits(scaled) | special);
}
KDLOSS_INLINE float widened(BFloat16 h) { return as_float(static_cast<std::uint32_t>(h.bits) << 16); }
KDLOSS_INLINE float widened(float x) { return x; }
KDLOSS_INLINE double widened(double x) { return x; }

// Rounded to the nearest, ties to even.
KDLOSS_INLINE void narrow(float x, Float16& to) {
  const std::uint32_t bits = as_bits(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  const std::uint32_t normal = (rest + 0xfffu + (rest >> 13 & 1u) - (112u << 23)) >> 13;
  // Below 2^-14 a half is a multiple of 2^-24, to which adding 1/2 rounds a float.
  const std::uint32_t denormal = as_bits(as_float(rest) + 0.5f) - 0x3f000000u;
  std::uint32_t half = rest < 0x38800000u ? denormal : normal;
  half = rest >= 0x477ff000u ? 0x7c00u : half;  // rounds to 65536 or more
  half = rest > 0x7f800000u ? 0x7e00u : half;
  to.bits = static_cast<std::uint16_t>(sign | half);
}
KDLOSS_INLINE void narrow(float x, BFloat16& to) {
  const std::uint32_t bits = as_bits(x), rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  to.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
template <class T>
KDLOSS_INLINE void narrow(T x, T& to) {
  to = x;
}

// Calls f(E{}) with the type of the elements.
template <class F>
KDLOSS_INLINE auto with_scalar(Scalar type, F&& f) {
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

template <class T>
KDLOSS_INLINE Matrix<const T> typed(const AnyView& v) {
  return {static_cast<const T*>(v.data), v.row_stride, v.class_stride};
}
template <class T>
KDLOSS_INLINE Matrix<T> typed(const Output& v) {
  return {static_cast<T*>(v.data), v.row_stride, v.class_stride};
}

// Rows [row, row + count) of any matrix, to a block with one row after another.
template <class T>
void read_rows(const AnyView& from, std::int64_t row, std::int64_t count, std::int64_t classes, T* block) {
  with_scalar(from.type, [&](auto element) {
    using E = decltype(element);
    const Matrix<const E> m = typed<E>(from);
    if constexpr (sizeof(E) == sizeof(T)) return pack_rows(m, row, count, classes, block);
    for (std::int64_t i = 0; i < count; ++i) {
      const E* const p = at(m, row + i);
      T* const to = block + i * block_stride<T>(classes);
      if (m.class_stride == 1)
        for (std::int64_t c = 0; c < classes; ++c) to[c] = static_cast<T>(widened(p[c]));
      else
        for (std::int64_t c = 0; c < classes; ++c) to[c] = static_cast<T>(widened(p[c * m.class_stride]));
    }
  });
}
// And back, to T itself or to a half.
template <class T>
void write_rows(const T* block, std::int64_t row, std::int64_t count, std::int64_t classes,
                const Output& to) {
  if (to.type == kScalar<T>) return unpack_rows(block, row, count, classes, typed<T>(to));
  if constexpr (sizeof(T) == sizeof(float)) {
    with_scalar(to.type, [&](auto element) {
      using E = decltype(element);
      if constexpr (sizeof(E) == sizeof(std::uint16_t)) {
        const Matrix<E> m = typed<E>(to);
        for (std::int64_t i = 0; i < count; ++i) {
          E* const p = at(m, row + i);
          const T* const from = block + i * block_stride<T>(classes);
          for (std::int64_t c = 0; c < classes; ++c) narrow(from[c], p[c * m.class_stride]);
        }
      }
    });
  }
}

// Whether rows can be read or written where they lie.
template <class T, class V>
KDLOSS_INLINE bool in_place(const V& v) {
  return v.type == kScalar<T> && v.class_stride == 1;
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
