// Copies between a matrix of any strides and the contiguous rows and tiles that the loops want.
#pragma once

#include "../../kernel_table.hpp"
#include "../simd/lanes.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Squares of kSide rows and columns are transposed: a row of one is a piece of 16 bytes, 4 floats or 2
// doubles. A native vector holds one row of each of several squares, one in each of its pieces.
template <class T>
constexpr int kSide = 16 / sizeof(T);
template <class T>
using Native = typename Lanes<T>::Native;

#if defined(__AVX512F__)
KDLOSS_INLINE __m512 low_pairs(__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b); }
KDLOSS_INLINE __m512 high_pairs(__m512 a, __m512 b) { return _mm512_unpackhi_ps(a, b); }
KDLOSS_INLINE __m512d low_pairs(__m512d a, __m512d b) { return _mm512_unpacklo_pd(a, b); }
KDLOSS_INLINE __m512d high_pairs(__m512d a, __m512d b) { return _mm512_unpackhi_pd(a, b); }
KDLOSS_INLINE __m512 put_together(const __m128* p) {
  // From memory these need no shuffles, of which turn() has enough; insertions would.
  const __m512 two = _mm512_mask_broadcast_f32x4(_mm512_castps128_ps512(p[0]), 0x00f0, p[1]);
  return _mm512_mask_broadcast_f32x4(_mm512_mask_broadcast_f32x4(two, 0x0f00, p[2]), 0xf000, p[3]);
}
KDLOSS_INLINE void take_apart(__m512 v, __m128* p) {
  p[0] = _mm512_castps512_ps128(v), p[1] = _mm512_extractf32x4_ps(v, 1);
  p[2] = _mm512_extractf32x4_ps(v, 2), p[3] = _mm512_extractf32x4_ps(v, 3);
}
KDLOSS_INLINE void turn_pieces(__m512* v) {
  const __m512 ab_low = _mm512_shuffle_f32x4(v[0], v[1], 0x44),
               ab_high = _mm512_shuffle_f32x4(v[0], v[1], 0xee);
  const __m512 cd_low = _mm512_shuffle_f32x4(v[2], v[3], 0x44),
               cd_high = _mm512_shuffle_f32x4(v[2], v[3], 0xee);
  v[0] = _mm512_shuffle_f32x4(ab_low, cd_low, 0x88), v[1] = _mm512_shuffle_f32x4(ab_low, cd_low, 0xdd);
  v[2] = _mm512_shuffle_f32x4(ab_high, cd_high, 0x88), v[3] = _mm512_shuffle_f32x4(ab_high, cd_high, 0xdd);
}
#elif defined(__AVX2__)
KDLOSS_INLINE __m256 low_pairs(__m256 a, __m256 b) { return _mm256_unpacklo_ps(a, b); }
KDLOSS_INLINE __m256 high_pairs(__m256 a, __m256 b) { return _mm256_unpackhi_ps(a, b); }
KDLOSS_INLINE __m256d low_pairs(__m256d a, __m256d b) { return _mm256_unpacklo_pd(a, b); }
KDLOSS_INLINE __m256d high_pairs(__m256d a, __m256d b) { return _mm256_unpackhi_pd(a, b); }
KDLOSS_INLINE __m256 put_together(const __m128* p) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(p[0]), p[1], 1);
}
KDLOSS_INLINE void take_apart(__m256 v, __m128* p) {
  p[0] = _mm256_castps256_ps128(v), p[1] = _mm256_extractf128_ps(v, 1);
}
KDLOSS_INLINE void turn_pieces(__m256* v) {
  const __m256 low = _mm256_permute2f128_ps(v[0], v[1], 0x20);
  v[1] = _mm256_permute2f128_ps(v[0], v[1], 0x31), v[0] = low;
}
#else
#if defined(__clang__)
#define KDLOSS_SHUFFLE(a, b, Index, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define KDLOSS_SHUFFLE(a, b, Index, ...) __builtin_shuffle(a, b, Index{__VA_ARGS__})
#endif
typedef std::int32_t Index4 __attribute__((vector_size(16)));
typedef std::int64_t Index2 __attribute__((vector_size(16)));
KDLOSS_INLINE Native<float> low_pairs(Native<float> a, Native<float> b) {
  return KDLOSS_SHUFFLE(a, b, Index4, 0, 4, 1, 5);
}
KDLOSS_INLINE Native<float> high_pairs(Native<float> a, Native<float> b) {
  return KDLOSS_SHUFFLE(a, b, Index4, 2, 6, 3, 7);
}
KDLOSS_INLINE Native<double> low_pairs(Native<double> a, Native<double> b) {
  return KDLOSS_SHUFFLE(a, b, Index2, 0, 2);
}
KDLOSS_INLINE Native<double> high_pairs(Native<double> a, Native<double> b) {
  return KDLOSS_SHUFFLE(a, b, Index2, 1, 3);
}
KDLOSS_INLINE Native<float> put_together(const Native<float>* p) { return p[0]; }
KDLOSS_INLINE void take_apart(Native<float> v, Native<float>* p) { p[0] = v; }
KDLOSS_INLINE void turn_pieces(Native<float>*) {}
#endif

typedef float Piece __attribute__((vector_size(16)));
constexpr int kPieces = kNativeBytes / 16;

// A native vector whose piece i lies at p + i * stride.
template <class T>
KDLOSS_INLINE Native<T> load_pieces(const T* p, std::int64_t stride) {
  Piece piece[kPieces];
  for (int i = 0; i < kPieces; ++i) __builtin_memcpy(&piece[i], p + i * stride, sizeof(Piece));
  return (Native<T>)put_together(piece);
}
template <class T>
KDLOSS_INLINE void store_pieces(T* p, std::int64_t stride, Native<T> v) {
  Piece piece[kPieces];
  take_apart((Native<float>)v, piece);
  for (int i = 0; i < kPieces; ++i) __builtin_memcpy(p + i * stride, &piece[i], sizeof(Piece));
}

// Transposes the squares in v[0], v[1], ...; turn_pieces() transposes the one square of whole pieces.
template <class T>
KDLOSS_INLINE void turn(Native<T>* v) {
  if constexpr (sizeof(T) == sizeof(float)) {
    using Pairs = Native<double>;
    const auto ab_low = (Pairs)low_pairs(v[0], v[1]), ab_high = (Pairs)high_pairs(v[0], v[1]);
    const auto cd_low = (Pairs)low_pairs(v[2], v[3]), cd_high = (Pairs)high_pairs(v[2], v[3]);
    v[0] = (Native<T>)low_pairs(ab_low, cd_low), v[1] = (Native<T>)high_pairs(ab_low, cd_low);
    v[2] = (Native<T>)low_pairs(ab_high, cd_high), v[3] = (Native<T>)high_pairs(ab_high, cd_high);
  } else {
    const Native<T> low = low_pairs(v[0], v[1]);
    v[1] = high_pairs(v[0], v[1]), v[0] = low;
  }
}

// to[c, r] = from[r, c] for r < kRows and c < columns; both arrays have unit stride along their last axis,
// and kRows is a multiple of a native vector's elements. The last squares reach back over what was already
// copied.
template <int kRows, class T>
KDLOSS_INLINE void transpose(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride,
                             std::int64_t columns) {
  constexpr std::int64_t n = kSide<T>, kStep = kNativeBytes / sizeof(T);
  if (columns < n) {
    for (std::int64_t c = 0; c < columns; ++c)
      for (std::int64_t r = 0; r < kRows; ++r) to[c * to_stride + r] = from[r * from_stride + c];
    return;
  }
  for (std::int64_t column = 0; column < columns; column += n) {
    const std::int64_t c = column + n <= columns ? column : columns - n;
    for (std::int64_t r = 0; r < kRows; r += kStep) {
      Native<T> v[n];
      for (int i = 0; i < n; ++i) v[i] = load_pieces(from + (r + i) * from_stride + c, n * from_stride);
      turn<T>(v);
      for (int i = 0; i < n; ++i) store_native(to + (c + i) * to_stride + r, v[i]);
    }
  }
}
// The reverse copy: to[r, c] = from[c, r], from a tile, which is near, or not. A tile's rows are written a
// native vector at a time. Elsewhere that is slower, since memory has more to do than the processor; there
// lines are asked for, since it cannot guess the next address of a large stride.
template <int kRows, bool kNear, class T>
KDLOSS_INLINE void transpose_back(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride,
                                  std::int64_t columns) {
  constexpr std::int64_t n = kSide<T>, kAhead = 12, kStep = kNativeBytes / sizeof(T);
  if (columns < n) {
    for (std::int64_t r = 0; r < kRows; ++r)
      for (std::int64_t c = 0; c < columns; ++c) to[r * to_stride + c] = from[c * from_stride + r];
    return;
  }
  std::int64_t column = 0;
  for (; kNear && column + kStep <= columns; column += kStep) {
    for (std::int64_t r = 0; r < kRows; r += kStep) {
      Native<T> v[kPieces][n];
      for (int p = 0; p < kPieces; ++p) {
        for (int i = 0; i < n; ++i) v[p][i] = load_native(from + (column + p * n + i) * from_stride + r);
        turn<T>(v[p]);
      }
      for (int i = 0; i < n; ++i) {
        Native<float> row[kPieces];
        for (int p = 0; p < kPieces; ++p) row[p] = (Native<float>)v[p][i];
        turn_pieces(row);
        for (int p = 0; p < kPieces; ++p)
          store_native(to + (r + p * n + i) * to_stride + column, (Native<T>)row[p]);
      }
    }
  }
  for (; column < columns; column += n) {
    const std::int64_t c = column + n <= columns ? column : columns - n;
    for (std::int64_t ahead = kAhead; !kNear && ahead < kAhead + n; ++ahead)
      for (std::int64_t r = 0; r < kRows; r += 64 / sizeof(T)) prefetch(from + r, (c + ahead) * from_stride);
    for (std::int64_t r = 0; r < kRows; r += kStep) {
      Native<T> v[n];
      for (int i = 0; i < n; ++i) v[i] = load_native(from + (c + i) * from_stride + r);
      turn<T>(v);
      for (int i = 0; i < n; ++i) store_pieces<T>(to + (r + i) * to_stride + c, n * to_stride, v[i]);
    }
  }
}

// The same where the columns lie far apart, each in pages of its own: by way of a small buffer, so that each
// column is written, or read, from end to end while its page is still in the TLB.
constexpr std::int64_t kNearColumns = 16;

// A column of an array that no cache holds: whole lines are written past the caches, so that they need not be
// read first.
template <int kRows, class T>
KDLOSS_INLINE void copy_past_caches(const T* from, T* to) {
  constexpr int n = Lanes<T>::kCount;
  const std::int64_t head = (n - line_offset(to)) % n;
  std::int64_t r = 0;
  for (; r < head; ++r) to[r] = from[r];
  for (; r + n <= kRows; r += n) store_past_caches(to + r, load(from + r));
  for (; r < kRows; ++r) to[r] = from[r];
}
template <int kRows, class T>
void transpose_far(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride,
                   std::int64_t columns) {
  constexpr int n = Lanes<T>::kCount;
  const bool past_caches = to_stride * columns >= kBeyondCaches;
  alignas(64) T near[kNearColumns * kRows];
  for (std::int64_t c = 0; c < columns; c += kNearColumns) {
    const std::int64_t count = columns - c < kNearColumns ? columns - c : kNearColumns;
    for (std::int64_t i = 0; i < count; ++i) {
      T* const column = to + (c + i) * to_stride;
      if (past_caches && line_offset(column) == 0) continue;
      for (std::int64_t r = 0; r < kRows; r += past_caches ? kRows - 1 : n) prefetch<true>(column, r);
    }
    for (std::int64_t r = 0; r < kRows; r += n)
      transpose<n>(from + r * from_stride + c, from_stride, near + r, kRows, count);
    for (std::int64_t i = 0; i < count; ++i) {
      T* const column = to + (c + i) * to_stride;
      const T* const values = near + i * kRows;
      if (past_caches)
        copy_past_caches<kRows>(values, column);
      else
        for (std::int64_t r = 0; r < kRows; r += n) store(column + r, load(values + r));
    }
  }
  if (past_caches) finish_stores();
}
template <int kRows, class T>
void transpose_back_far(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride,
                        std::int64_t columns) {
  constexpr int n = Lanes<T>::kCount;
  alignas(64) T near[kNearColumns * kRows];
  for (std::int64_t c = 0; c < columns; c += kNearColumns) {
    const std::int64_t count = columns - c < kNearColumns ? columns - c : kNearColumns;
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t r = 0; r < kRows; r += n)
        store(near + i * kRows + r, load(from + (c + i) * from_stride + r));
    for (std::int64_t r = 0; r < kRows; r += n) {
      for (std::int64_t i = kNearColumns; i < 2 * kNearColumns; ++i)
        prefetch(from + r, (c + i) * from_stride);
      transpose_back<n, false>(near + r, kRows, to + r * to_stride + c, to_stride, count);
    }
  }
}

// Rows that are packed together, so that the cache lines which hold several rows of one class are used up
// while they are there; fewer where so many would no longer fit L2.
template <class T>
constexpr std::int64_t pack_rows_at_once(std::int64_t classes) {
  constexpr std::int64_t many = 8 * Lanes<T>::kCount;
  static_assert(many <= kPackedRows);
  return classes <= 4096 ? many : many / 4;
}

// From row to row of a packed copy: an odd number of cache lines, so that no count of classes puts the rows
// into a few sets of the caches (1024 classes would put all into one).
template <class T>
constexpr std::int64_t packed_stride(std::int64_t classes) {
  constexpr std::int64_t n = 64 / sizeof(T);
  return ((classes + n - 1) / n | 1) * n;
}

// Calls copy(constant, first) for strips of rows: many, few, one. constant.value rows begin at first; the
// last few may reach back over rows that were copied before.
template <class T, class Copy>
KDLOSS_INLINE void in_strips(std::int64_t count, Copy&& copy) {
  constexpr int few = Lanes<T>::kCount, many = 8 * few;
  std::int64_t r = 0;
  for (; r + many <= count; r += many) copy(Constant<many>{}, r);
  for (; r < count && few <= count; r += few) copy(Constant<few>{}, r + few <= count ? r : count - few);
  for (; r < count; ++r) copy(Constant<1>{}, r);
}

// count rows of a matrix, from the given row, packed one row after another.
template <class T>
void pack_rows(const Matrix<const T>& from, std::int64_t row, std::int64_t count, std::int64_t classes,
               T* packed) {
  const std::int64_t stride = packed_stride<T>(classes);
  in_strips<T>(count, [&](auto rows, std::int64_t r) {
    constexpr int n = rows.value;
    const T* const p = at(from, row + r);
    T* const to = packed + r * stride;
    if (n > 1 && from.row_stride == 1)
      return n > Lanes<T>::kCount ? transpose_back_far<n>(p, from.class_stride, to, stride, classes)
                                  : transpose_back<n, false>(p, from.class_stride, to, stride, classes);
    for (std::int64_t i = 0; i < n; ++i) {
      const T* const one = p + i * from.row_stride;
      T* const copy = to + i * stride;
      if (from.class_stride != 1) {
        for (std::int64_t c = 0; c < classes; ++c) copy[c] = one[c * from.class_stride];
        continue;
      }
      for (std::int64_t c = 0; c < classes; c += 64 / sizeof(T)) prefetch(one + c, from.row_stride);
      for (std::int64_t c = 0; c < classes; ++c) copy[c] = one[c];
    }
  });
}
// The reverse copy.
template <class T>
void unpack_rows(const T* packed, std::int64_t row, std::int64_t count, std::int64_t classes,
                 const Matrix<T>& to) {
  const std::int64_t stride = packed_stride<T>(classes);
  in_strips<T>(count, [&](auto rows, std::int64_t r) {
    constexpr int n = rows.value;
    const T* const from = packed + r * stride;
    if (n > 1 && to.row_stride == 1)
      return transpose_far<n>(from, stride, at(to, row + r), to.class_stride, classes);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t c = 0; c < classes; ++c) *at(to, row + r + i, c) = from[i * stride + c];
  });
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
