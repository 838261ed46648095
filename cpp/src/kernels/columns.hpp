// Walks along the columns of one row, a Lanes at a time.
#pragma once

#include "lanes.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Few enough additions a lane for a float, enough to hide the horizontal sum.
constexpr std::int64_t kBlock = 1024;
struct Span {
  std::int64_t begin, end;
};

// The blocks of a row, whose sums are taken apart and added in double. The last one takes up what would be
// too short for one of its own.
constexpr std::int64_t block_count(std::int64_t classes) {
  return classes < 2 * kBlock ? 1 : classes / kBlock;
}
KDLOSS_INLINE Span block_at(std::int64_t i, std::int64_t count, std::int64_t classes) {
  return {i * kBlock, i + 1 == count ? classes : (i + 1) * kBlock};
}
// Calls body(block) for each.
template <class Body>
KDLOSS_INLINE void for_blocks(std::int64_t classes, Body&& body) {
  const std::int64_t count = block_count(classes);
  for (std::int64_t i = 0; i < count; ++i) body(block_at(i, count, classes));
}

// Calls body(column, fresh) for every Lanes of columns in a span, which holds at least one. The last call may
// reach back over columns that were already seen; fresh is the first that was not.
template <class T, class Body>
KDLOSS_INLINE void for_columns(Span span, Body&& body) {
  constexpr std::int64_t n = Lanes<T>::kCount;
  for (std::int64_t c = span.begin; c < span.end; c += n) body(c + n <= span.end ? c : span.end - n, c);
}

// Zero in the lanes that were counted before.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> only_fresh(Lanes<T, P> x, std::int64_t stale) {
  return where(lane_index<T, P>() < Lanes<T, P>(static_cast<T>(stale)), Lanes<T, P>(0), x);
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
