// Matrices that lie anywhere in memory, with a filling in between and around them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "check.hpp"
#include "kdloss/views.hpp"

enum class Layout {
  kRows,
  kPaddedRows,
  kColumns,
  kPaddedColumns,
  kColumnsInPages,  // each begins at the same place of a page
  kSpread,
  kRowsBackwards,
  kColumnsBackwards,
  kAllBackwards,
  kCount
};

constexpr int kLayouts = static_cast<int>(Layout::kCount);

template <class T>
T filling() {
  if constexpr (sizeof(T) == sizeof(std::uint16_t))
    return {0xf00d};
  else
    return T(-12345.5);
}

// A matrix in any layout, with filling values between and around its elements.
template <class T>
class Placed {
 public:
  Placed(Layout layout, const std::vector<T>& values, std::int64_t rows, std::int64_t classes)
      : rows_(rows), classes_(classes) {
    std::int64_t row_stride = classes, class_stride = 1;
    if (layout == Layout::kPaddedRows) row_stride = classes + 3;
    if (layout == Layout::kColumns || layout == Layout::kColumnsBackwards)
      row_stride = 1, class_stride = rows;
    if (layout == Layout::kPaddedColumns) row_stride = 1, class_stride = rows + 5;
    constexpr std::int64_t kPage = 4096 / sizeof(T);
    if (layout == Layout::kColumnsInPages) row_stride = 1, class_stride = (rows + kPage - 1) / kPage * kPage;
    if (layout == Layout::kSpread) class_stride = 2, row_stride = 2 * classes + 1;
    if (layout == Layout::kRowsBackwards || layout == Layout::kAllBackwards) row_stride = -row_stride;
    if (layout == Layout::kColumnsBackwards || layout == Layout::kAllBackwards) class_stride = -class_stride;
    const std::int64_t row_reach = (rows - 1) * row_stride, class_reach = (classes - 1) * class_stride;
    const std::int64_t lowest = std::min<std::int64_t>(row_reach, 0) + std::min<std::int64_t>(class_reach, 0);
    const std::int64_t highest =
        std::max<std::int64_t>(row_reach, 0) + std::max<std::int64_t>(class_reach, 0);
    constexpr std::int64_t kAround = 40;
    memory_.assign(static_cast<std::size_t>(highest - lowest + 1 + 2 * kAround), filling<T>());
    view_ = {memory_.data() + kAround - lowest, rows, classes, row_stride, class_stride};
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t c = 0; c < classes; ++c) at(i, c) = values[static_cast<std::size_t>(i * classes + c)];
  }
  Placed(const Placed&) = delete;

  kdloss::View<T> view() { return view_; }
  kdloss::View<const T> const_view() const {
    return {view_.data, rows_, classes_, view_.row_stride, view_.class_stride};
  }
  std::vector<T> values() const {
    std::vector<T> all;
    for (std::int64_t i = 0; i < rows_; ++i)
      for (std::int64_t c = 0; c < classes_; ++c)
        all.push_back(view_.data[i * view_.row_stride + c * view_.class_stride]);
    return all;
  }
  bool filling_is_whole() const {
    std::size_t filled = 0;
    for (T x : memory_) filled += check::same_bits(x, filling<T>()) ? 1 : 0;
    return filled == memory_.size() - static_cast<std::size_t>(rows_ * classes_);
  }

 private:
  T& at(std::int64_t i, std::int64_t c) { return view_.data[i * view_.row_stride + c * view_.class_stride]; }
  std::vector<T> memory_;
  kdloss::View<T> view_;
  std::int64_t rows_, classes_;
};
