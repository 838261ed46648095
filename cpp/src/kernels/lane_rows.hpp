// Rows on their way into a tile, one to a lane, and out of it.
#pragma once

#include "../kernel_table.hpp"
#include "transpose.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// tile[c, i] = from[first + i, c] for i < count <= 16 (or 8); the other lanes repeat the last row.
template <class T>
void gather(const Matrix<const T>& from, std::int64_t first, int count, std::int64_t classes, T* tile) {
  constexpr int n = Lanes<T>::kCount;
  const T* p = at(from, first);
  if (count == n && from.class_stride == 1) return transpose<n>(p, from.row_stride, tile, n, classes);
  if (count == n && from.row_stride == 1) {
    for (std::int64_t c = 0; c < classes; ++c) store(tile + c * n, load(p + c * from.class_stride));
    return;
  }
  const T* const last = p + (count - 1) * from.row_stride;
  for (std::int64_t c = 0; c < classes; ++c) store(tile + c * n, Lanes<T>(last[c * from.class_stride]));
  for (int i = 0; i < count - 1; ++i, p += from.row_stride)
    for (std::int64_t c = 0; c < classes; ++c) tile[c * n + i] = p[c * from.class_stride];
}
template <class T>
void scatter(const T* tile, std::int64_t first, int count, std::int64_t classes, const Matrix<T>& to) {
  constexpr int n = Lanes<T>::kCount;
  T* p = at(to, first);
  if (count == n && to.class_stride == 1) return transpose_back<n>(tile, n, p, to.row_stride, classes);
  if (count == n && to.row_stride == 1) {
    for (std::int64_t c = 0; c < classes; ++c) store(p + c * to.class_stride, load(tile + c * n));
    return;
  }
  for (int i = 0; i < count; ++i, p += to.row_stride)
    for (std::int64_t c = 0; c < classes; ++c) p[c * to.class_stride] = tile[c * n + i];
}

// Classes that lie whole pages apart share a few sets of the caches, where lines are lost before the next
// tile comes to them (32768 x 100 had half the speed of 33024 x 100).
template <class T, class V>
bool lies_in_whole_pages(const V& v) {
  constexpr std::int64_t kPage = 4096 / sizeof(T);
  return v.type == kScalar<T> && v.row_stride == 1 && v.class_stride % kPage == 0;
}

// count rows of every class, between arrays where rows lie side by side.
template <class T>
void copy_columns(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride, std::int64_t count,
                  std::int64_t classes) {
  constexpr std::int64_t n = Lanes<T>::kCount, kAhead = 8;
  for (std::int64_t c = 0; c < classes; ++c) {
    const T* const in = from + c * from_stride;
    T* const out = to + c * to_stride;
    for (std::int64_t r = 0; r < count; r += n)
      prefetch(in, kAhead * from_stride + r), prefetch<true>(out, kAhead * to_stride + r);
    std::int64_t r = 0;
    for (; r + n <= count; r += n) store(out + r, load(in + r));
    for (; r < count; ++r) out[r] = in[r];
  }
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
