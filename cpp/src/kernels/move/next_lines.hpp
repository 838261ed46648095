// Cache lines where the rows of tiles to come are read from, or written to: asked for four at a time, and as
// many by a tile as it has classes. Where classes lie side by side they are those of the next tile; where
// rows do, those of a class in the next four tiles, each tile until then asking for a quarter of the classes:
// what comes in runs the processor fetches twice as fast. The tile itself stands for what is absent.
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
  NextLines(const Matrix<E>& m, std::int64_t row, std::int64_t classes, const T* tile) : run_(tile) {
    if (m.data == nullptr) return;
    std::int64_t first = (row + kLine) * m.row_stride;
    if (m.row_stride == 1) {
      const std::int64_t tiles = row / kLine, share = tiles % kAtOnce * ((classes + kAtOnce - 1) / kAtOnce);
      step_ = m.class_stride;
      // A line holds the end of one tile's rows and the beginning of the next's.
      first = ((tiles / kAtOnce + 1) * kAtOnce + 1) * kLine - 1 + share * step_;
    }
    run_ = moved_by<const T>(m.data, first);
  }
  template <bool Writing>
  KDLOSS_INLINE void ask() {
    for (std::int64_t i = 0; i < kAtOnce * kLine; i += kLine) prefetch<Writing>(run_, i);
    run_ = moved_by(run_, step_);
  }

 private:
  static constexpr std::int64_t kLine = Lanes<T>::kCount;
  const T* run_;
  std::int64_t step_ = kAtOnce * kLine;  // from run to run
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
