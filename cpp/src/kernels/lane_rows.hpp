// The rows that share a tile, one in each lane, and their way in and out of it.
#pragma once

#include "transpose.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

// The rows in a tile's lanes; lanes from count on are empty.
template <class T>
struct LaneRows {
  std::int64_t row[Lanes<T>::kCount];
  int count = 0;
  bool is_run = true;  // one row after another
  void push(std::int64_t r) {
    is_run = is_run && (count == 0 || r == row[0] + count);
    row[count++] = r;
  }
  void drop(int lane) { row[lane] = -1, is_run = false; }
  bool is_whole_run() const { return is_run && count == Lanes<T>::kCount; }
};

// tile[c, lane] = from[row of the lane, c]; 0 in empty lanes.
template <class T>
void gather(const Matrix<const T>& from, const LaneRows<T>& rows, std::int64_t classes, T* tile) {
  constexpr int n = Lanes<T>::kCount;
  const T* p = at(from, rows.row[0]);
  if (rows.is_whole_run()) {
    if (from.class_stride == 1) return transpose(p, from.row_stride, tile, n, n, classes);
    if (from.row_stride == 1) {
      for (std::int64_t c = 0; c < classes; ++c) store(tile + c * n, load(p + c * from.class_stride));
      return;
    }
  }
  for (std::int64_t c = 0; c < classes; ++c) {
    for (int r = 0; r < rows.count; ++r) tile[c * n + r] = *at(from, rows.row[r], c);
    for (int r = rows.count; r < n; ++r) tile[c * n + r] = 0;
  }
}
template <class T>
void scatter(const T* tile, const LaneRows<T>& rows, std::int64_t classes, const Matrix<T>& to) {
  constexpr int n = Lanes<T>::kCount;
  T* p = at(to, rows.row[0]);
  if (rows.is_whole_run()) {
    if (to.class_stride == 1) return transpose(tile, n, p, to.row_stride, classes, n);
    if (to.row_stride == 1) {
      for (std::int64_t c = 0; c < classes; ++c) store(p + c * to.class_stride, load(tile + c * n));
      return;
    }
  }
  for (std::int64_t c = 0; c < classes; ++c)
    for (int r = 0; r < rows.count; ++r)
      if (rows.row[r] >= 0) *at(to, rows.row[r], c) = tile[c * n + r];
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
