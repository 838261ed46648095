// Cuts the rows of a call into blocks and runs them on threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernel_table.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace kdloss {

// Elements of a block: enough that taking a block costs little beside working on it. A call that fits the
// second caches is cut into one block for each thread instead: moving rows to another processor's cache would
// cost more than uneven shares.
constexpr std::int64_t kBlockElements = 16384;
constexpr std::int64_t kFitsCaches = 1 << 17;

// Blocks begin where groups begin: at row i if i + missing is a multiple of size.
struct RowGroups {
  std::int64_t size = 1, missing = 0;
};

// The groups that rows are packed in, where their classes lie apart.
inline RowGroups packed_groups(std::int64_t rows, int threads, std::int64_t missing) {
  const std::int64_t share = (rows + threads - 1) / threads;
  return {std::min(kPackedRows, (share + kFewRows - 1) / kFewRows * kFewRows), missing};
}

// Runs work(begin, end, scratch) over all rows.
template <class T, class Work>
void for_row_blocks(std::int64_t rows, std::int64_t classes, RowGroups groups, std::int64_t scratch_elements,
                    int threads, Work&& work) {
  if (threads == 1) {  // a small call is spared the divisions below
    Scratch scratch(scratch_elements, sizeof(T), 1);
    if (rows > 0) work(0, rows, scratch.piece<T>(0));
    call_ends();
    return;
  }
  const std::int64_t share = (rows + threads - 1) / threads;
  const std::int64_t block_rows =
      rows * classes <= kFitsCaches ? share : std::min(share, kBlockElements / classes);
  const std::int64_t block =
      std::max<std::int64_t>(1, (block_rows + groups.size - 1) / groups.size) * groups.size;
  // A few rows that are left over at the end join the last block.
  const std::int64_t few = std::min(kFewRows, groups.size) - 1;
  const std::int64_t count = std::max<std::int64_t>(1, (rows + groups.missing - few + block - 1) / block);
  threads = static_cast<int>(std::min<std::int64_t>(threads, count));
  Scratch scratch(scratch_elements, sizeof(T), threads);
  parallel_for(count, threads, [&](std::int64_t first, std::int64_t last, int thread) {
    const std::int64_t begin = first * block - groups.missing, end = last * block - groups.missing;
    work(std::max<std::int64_t>(0, begin), last == count ? rows : end, scratch.piece<T>(thread));
  });
  call_ends();
}

}  // namespace kdloss
