// Cuts the rows of a call into blocks and runs them on threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.hpp"
#include "scratch.hpp"

namespace kdloss {

// Elements of a block, so that taking one costs little beside working on it; fewer where that would leave
// threads without any.
constexpr std::int64_t kBlockElements = 16384;
constexpr std::int64_t kBlocksPerThread = 4;
// Rows that share work in a kernel, at the most; blocks begin at multiples of it.
constexpr std::int64_t kRowGroup = 16;
// The same where the classes of a row lie apart and rows are packed together first.
constexpr std::int64_t kStridedRowGroup = 128;

// Runs work(begin, end, scratch) over all rows.
template <class T, class Work>
void for_row_blocks(std::int64_t rows, std::int64_t classes, bool strided, std::int64_t scratch_elements,
                    int threads, Work&& work) {
  const std::int64_t group = strided ? kStridedRowGroup : kRowGroup;
  const std::int64_t elements = std::min(kBlockElements, rows * classes / (threads * kBlocksPerThread));
  const std::int64_t groups = std::max<std::int64_t>(1, elements / (classes * group));
  const std::int64_t block = threads == 1 ? rows : groups * group;
  const std::int64_t count = block == 0 ? 0 : (rows + block - 1) / block;
  threads = static_cast<int>(std::min<std::int64_t>(threads, std::max<std::int64_t>(count, 1)));
  Scratch scratch(scratch_elements, sizeof(T), threads);
  parallel_for(count, threads, [&](std::int64_t i, int thread) {
    work(i * block, std::min(rows, (i + 1) * block), scratch.piece<T>(thread));
  });
}

}  // namespace kdloss
