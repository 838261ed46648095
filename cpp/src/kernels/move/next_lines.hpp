// Prefetches the cache lines of the tiles to come, four neighbours at a time, which arrive twice as fast as
// lines that lie apart. A tile asks for as many lines as it has classes. Where the classes of a row lie side
// by side, these lines are the next tile's. Where the rows of a class do, four lines are that class in the
// next four tiles, and each of the four tiles before these asks for a quarter of the classes. In the place of
// an absent array the tile itself is asked for, which does no harm.
#pragma once

#include "../../kernel_table.hpp"
#include "../simd/lanes.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
class NextLines {
 public:
  static constexpr std::int64_t kAtOnce = 4;

  template <class E>
  NextLines(const Matrix<E>& m, std::int64_t row, std::int64_t classes, const T* tile) : lines_(tile) {
    if (m.data == nullptr) return;
    std::int64_t first = (row + kLine) * m.row_stride;
    if (m.row_stride == 1) {
      const std::int64_t tiles = row / kLine, share = tiles % kAtOnce * ((classes + kAtOnce - 1) / kAtOnce);
      step_ = m.class_stride;
      // A line holds the end of one tile's rows and the beginning of the next's.
      first = ((tiles / kAtOnce + 1) * kAtOnce + 1) * kLine - 1 + share * step_;
    }
    lines_ = moved_by<const T>(m.data, first);
  }
  template <bool Writing>
  KDLOSS_INLINE void ask() {
    for (std::int64_t i = 0; i < kAtOnce * kLine; i += kLine) prefetch<Writing>(lines_, i);
    lines_ = moved_by(lines_, step_);
  }

 private:
  static constexpr std::int64_t kLine = Lanes<T>::kCount;
  const T* lines_;
  std::int64_t step_ = kAtOnce * kLine;  // from one four to the next
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
