// Rows of the four float types, read into the type that is computed in and written back from it.
//
// Plain loops over one row, which the compiler turns into vectors.
#pragma once

#include "../../halves.hpp"
#include "../../kernel_table.hpp"
#include "transpose.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
KDLOSS_INLINE Matrix<const T> typed(const AnyView& v) {
  return {static_cast<const T*>(v.data), v.row_stride, v.class_stride};
}
template <class T>
KDLOSS_INLINE Matrix<T> typed(const Output& v) {
  return {static_cast<T*>(v.data), v.row_stride, v.class_stride};
}

// Rows [row, row + count) of any matrix, packed one row after another.
template <class T>
void read_rows(const AnyView& from, std::int64_t row, std::int64_t count, std::int64_t classes, T* packed) {
  with_scalar(from.type, [&](auto element) {
    using E = decltype(element);
    const Matrix<const E> m = typed<E>(from);
    if constexpr (sizeof(E) == sizeof(T)) return pack_rows(m, row, count, classes, packed);
    for (std::int64_t i = 0; i < count; ++i) {
      const E* const p = at(m, row + i);
      T* const to = packed + i * packed_stride<T>(classes);
      if (m.class_stride == 1)
        for (std::int64_t c = 0; c < classes; ++c) to[c] = static_cast<T>(widened(p[c]));
      else
        for (std::int64_t c = 0; c < classes; ++c) to[c] = static_cast<T>(widened(p[c * m.class_stride]));
    }
  });
}
// Copies rows of T to the caller's array, of T or of a half type.
template <class T>
void write_rows(const T* packed, std::int64_t row, std::int64_t count, std::int64_t classes,
                const Output& to) {
  if (to.type == kScalar<T>) return unpack_rows(packed, row, count, classes, typed<T>(to));
  with_scalar(to.type, [&](auto element) {
    using E = decltype(element);
    if constexpr (sizeof(E) < sizeof(float) && sizeof(T) == sizeof(float)) {
      const Matrix<E> m = typed<E>(to);
      for (std::int64_t i = 0; i < count; ++i) {
        E* const p = at(m, row + i);
        const T* const from = packed + i * packed_stride<T>(classes);
        for (std::int64_t c = 0; c < classes; ++c) narrow(from[c], p[c * m.class_stride]);
      }
    }
  });
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
