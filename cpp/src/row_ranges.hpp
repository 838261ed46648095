// Cuts the rows of a call into ranges and runs them on threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernel_table.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace kdloss {

// Elements of a range: enough that taking a range costs little beside working on it. A call that fits the
// L2 caches is cut into one range for each thread instead: moving rows to another processor's cache would
// cost more than uneven shares.
constexpr std::int64_t kRangeElements = 16384;
constexpr std::int64_t kFitsCaches = 1 << 17;

// Where ranges begin: at row i if i + missing is a multiple of size.
struct RowAlignment {
  std::int64_t size = 1, missing = 0;
};

// That of rows that are packed together, where their classes lie apart.
inline RowAlignment packed_alignment(std::int64_t rows, int threads, std::int64_t missing) {
  const std::int64_t share = (rows + threads - 1) / threads;
  return {std::min(kPackedRows, (share + kFewRows - 1) / kFewRows * kFewRows), missing};
}

// Runs work(begin, end, scratch) over all rows.
template <class T, class Work>
void for_row_ranges(std::int64_t rows, std::int64_t classes, RowAlignment alignment,
                    std::int64_t scratch_elements, int threads, Work&& work) {
  if (threads == 1) {  // a small call is spared the divisions below
    Scratch scratch(scratch_elements, sizeof(T), 1);
    if (rows > 0) work(0, rows, scratch.piece<T>(0));
    record_call_end();
    return;
  }
  const std::int64_t share = (rows + threads - 1) / threads;
  const std::int64_t range_rows =
      rows * classes <= kFitsCaches ? share : std::min(share, kRangeElements / classes);
  const std::int64_t range =
      std::max<std::int64_t>(1, (range_rows + alignment.size - 1) / alignment.size) * alignment.size;
  // A few rows that are left over at the end join the last range.
  const std::int64_t few = std::min(kFewRows, alignment.size) - 1;
  const std::int64_t count = std::max<std::int64_t>(1, (rows + alignment.missing - few + range - 1) / range);
  threads = static_cast<int>(std::min<std::int64_t>(threads, count));
  Scratch scratch(scratch_elements, sizeof(T), threads);
  parallel_for(count, threads, [&](std::int64_t first, std::int64_t last, int thread) {
    const std::int64_t begin = first * range - alignment.missing, end = last * range - alignment.missing;
    work(std::max<std::int64_t>(0, begin), last == count ? rows : end, scratch.piece<T>(thread));
  });
  record_call_end();
}

}  // namespace kdloss
