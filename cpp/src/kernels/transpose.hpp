// Copies between a matrix of any strides and the contiguous blocks that the loops want.
#pragma once

#include "../kernel_table.hpp"
#include "lanes.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

// Squares of one 16-byte vector a row: 4 x 4 floats or 2 x 2 doubles. That is half the speed of the best
// shuffles and the same on every instruction set.
typedef float Float4 __attribute__((vector_size(16)));
typedef double Double2 __attribute__((vector_size(16)));
template <class V, class T>
KDLOSS_INLINE V load_vector(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class T>
KDLOSS_INLINE void store_vector(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

#if defined(__clang__)
#define KDLOSS_SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#define KDLOSS_SHUFFLE2(a, b, i, j) __builtin_shufflevector(a, b, i, j)
#else
typedef std::int32_t Index4 __attribute__((vector_size(16)));
typedef std::int64_t Index2 __attribute__((vector_size(16)));
#define KDLOSS_SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, Index4{i, j, k, l})
#define KDLOSS_SHUFFLE2(a, b, i, j) __builtin_shuffle(a, b, Index2{i, j})
#endif

KDLOSS_INLINE void transpose_square(const float* from, std::int64_t from_stride, float* to,
                                    std::int64_t to_stride) {
  const Float4 a = load_vector<Float4>(from), b = load_vector<Float4>(from + from_stride);
  const Float4 c = load_vector<Float4>(from + 2 * from_stride),
               d = load_vector<Float4>(from + 3 * from_stride);
  const Float4 ab_low = KDLOSS_SHUFFLE4(a, b, 0, 4, 1, 5), ab_high = KDLOSS_SHUFFLE4(a, b, 2, 6, 3, 7);
  const Float4 cd_low = KDLOSS_SHUFFLE4(c, d, 0, 4, 1, 5), cd_high = KDLOSS_SHUFFLE4(c, d, 2, 6, 3, 7);
  store_vector(to, KDLOSS_SHUFFLE4(ab_low, cd_low, 0, 1, 4, 5));
  store_vector(to + to_stride, KDLOSS_SHUFFLE4(ab_low, cd_low, 2, 3, 6, 7));
  store_vector(to + 2 * to_stride, KDLOSS_SHUFFLE4(ab_high, cd_high, 0, 1, 4, 5));
  store_vector(to + 3 * to_stride, KDLOSS_SHUFFLE4(ab_high, cd_high, 2, 3, 6, 7));
}
KDLOSS_INLINE void transpose_square(const double* from, std::int64_t from_stride, double* to,
                                    std::int64_t to_stride) {
  const Double2 a = load_vector<Double2>(from), b = load_vector<Double2>(from + from_stride);
  store_vector(to, KDLOSS_SHUFFLE2(a, b, 0, 2));
  store_vector(to + to_stride, KDLOSS_SHUFFLE2(a, b, 1, 3));
}

// to[c, r] = from[r, c] for r < kRows and c < columns; both arrays have unit stride along their last axis,
// and kRows is a multiple of a square's side. The last squares reach back over what was already copied. kFar
// says that the columns' new rows lie far apart in memory, where the processor cannot guess the next.
template <int kRows, bool kFar, class T>
KDLOSS_INLINE void transpose(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride,
                             std::int64_t columns) {
  constexpr std::int64_t n = 16 / sizeof(T), kAhead = 16;
  if (columns < n) {
    for (std::int64_t c = 0; c < columns; ++c)
      for (std::int64_t r = 0; r < kRows; ++r) to[c * to_stride + r] = from[r * from_stride + c];
    return;
  }
  for (std::int64_t column = 0; column < columns; column += n) {
    const std::int64_t c = column + n <= columns ? column : columns - n;
    for (std::int64_t i = 0; kFar && i < n && c + kAhead + i < columns; ++i)
      for (std::int64_t r = 0; r < kRows; r += 64 / sizeof(T))
        prefetch_for_writing(to + (c + kAhead + i) * to_stride + r);
    for (std::int64_t r = 0; r < kRows; r += n)
      transpose_square(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
  }
}
// And back: to[r, c] = from[c, r]. The processor cannot guess the next address of a large stride.
template <int kRows, class T>
KDLOSS_INLINE void transpose_back(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride,
                                  std::int64_t columns) {
  constexpr std::int64_t n = 16 / sizeof(T), kAhead = 16;
  if (columns < n) {
    for (std::int64_t r = 0; r < kRows; ++r)
      for (std::int64_t c = 0; c < columns; ++c) to[r * to_stride + c] = from[c * from_stride + r];
    return;
  }
  for (std::int64_t column = 0; column < columns; column += n) {
    const std::int64_t c = column + n <= columns ? column : columns - n;
    for (std::int64_t ahead = kAhead; ahead < kAhead + n; ++ahead)
      for (std::int64_t r = 0; r < kRows; r += 64 / sizeof(T)) prefetch(from + r, (c + ahead) * from_stride);
    for (std::int64_t r = 0; r < kRows; r += n)
      transpose_square(from + c * from_stride + r, from_stride, to + r * to_stride + c, to_stride);
  }
}

// Element (r, c) of a matrix.
template <class T>
KDLOSS_INLINE T* at(const Matrix<T>& m, std::int64_t r, std::int64_t c = 0) {
  return m.data + r * m.row_stride + c * m.class_stride;
}

// Rows that are packed together, so that the cache lines which hold several rows of one class are used up
// while they are there; fewer where so many would no longer fit the second cache.
template <class T>
constexpr std::int64_t pack_rows_at_once(std::int64_t classes) {
  return (classes <= 4096 ? 8 : 2) * Lanes<T>::kCount;
}

// Calls copy(constant, first) for groups of rows: many, few, one. constant.value rows begin at first.
template <int N>
struct RowsAtOnce {
  static constexpr int value = N;
};
template <class T, class Copy>
KDLOSS_INLINE void in_groups(std::int64_t count, Copy&& copy) {
  constexpr int few = Lanes<T>::kCount, many = 8 * few;
  std::int64_t r = 0;
  for (; r + many <= count; r += many) copy(RowsAtOnce<many>{}, r);
  for (; r + few <= count; r += few) copy(RowsAtOnce<few>{}, r);
  for (; r < count; ++r) copy(RowsAtOnce<1>{}, r);
}

// count rows of a matrix, from the given row, to a contiguous block with one row after another.
template <class T>
void pack_rows(const Matrix<const T>& from, std::int64_t row, std::int64_t count, std::int64_t classes,
               T* block) {
  in_groups<T>(count, [&](auto rows, std::int64_t r) {
    if (rows.value > 1 && from.row_stride == 1)
      return transpose_back<rows.value>(at(from, row + r), from.class_stride, block + r * classes, classes,
                                        classes);
    for (std::int64_t i = r; i < r + rows.value; ++i)
      for (std::int64_t c = 0; c < classes; ++c) block[i * classes + c] = *at(from, row + i, c);
  });
}
// And back.
template <class T>
void unpack_rows(const T* block, std::int64_t row, std::int64_t count, std::int64_t classes,
                 const Matrix<T>& to) {
  in_groups<T>(count, [&](auto rows, std::int64_t r) {
    if (rows.value > 1 && to.row_stride == 1)
      return transpose<rows.value, true>(block + r * classes, classes, at(to, row + r), to.class_stride,
                                         classes);
    for (std::int64_t i = r; i < r + rows.value; ++i)
      for (std::int64_t c = 0; c < classes; ++c) *at(to, row + i, c) = block[i * classes + c];
  });
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
