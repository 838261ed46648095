// Rows on their way into a tile, one to a lane, and out of it.
#pragma once

#include "../../kernel_table.hpp"
#include "transpose.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// tile[c, i] = from[first + i, c] for i < count <= 16 (or 8); the other lanes repeat the last row.
template <class T>
__attribute__((noinline)) void gather(const Matrix<const T>& from, std::int64_t first, int count,
                                      std::int64_t classes, T* tile) {
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
__attribute__((noinline)) void scatter(const T* tile, std::int64_t first, int count, std::int64_t classes,
                                       const Matrix<T>& to) {
  constexpr int n = Lanes<T>::kCount;
  T* p = at(to, first);
  if (count == n && to.class_stride == 1) return transpose_back<n, true>(tile, n, p, to.row_stride, classes);
  if (count == n && to.row_stride == 1) {
    for (std::int64_t c = 0; c < classes; ++c) store(p + c * to.class_stride, load(tile + c * n));
    return;
  }
  for (int i = 0; i < count; ++i, p += to.row_stride)
    for (std::int64_t c = 0; c < classes; ++c) p[c * to.class_stride] = tile[c * n + i];
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
