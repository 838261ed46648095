// Walks along the columns of one row, a Lanes at a time.
#pragma once

#include "lanes.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

struct Yes {
  static constexpr bool value = true;
};
struct No {
  static constexpr bool value = false;
};

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
KDLOSS_INLINE Span block_at(std::int64_t i, std::int64_t classes) {
  return {i * kBlock, i + 1 == block_count(classes) ? classes : (i + 1) * kBlock};
}
// Calls body(block) for each.
template <class Body>
KDLOSS_INLINE void for_blocks(std::int64_t classes, Body&& body) {
  for (std::int64_t i = 0; i < block_count(classes); ++i) body(block_at(i, classes));
}

// Calls body(column, fresh) for every Lanes of columns in a span, which holds at least one. The last call may
// reach back over columns that were already seen; fresh is the first that was not.
template <class T, class Body>
KDLOSS_INLINE void for_columns(Span span, Body&& body) {
  constexpr std::int64_t n = Lanes<T>::kCount;
  std::int64_t c = span.begin;
  for (; c + n <= span.end; c += n) body(c, c);
  if (c < span.end) body(span.end - n, c);
}

// The same where one column is special: calls body(column, fresh, Yes{}) for the Lanes that hold it and for
// the last one if that reaches back, body(column, fresh, No{}) for all others, which so have no branches.
template <class T, class Body>
KDLOSS_INLINE void for_columns(Span span, std::int64_t special, Body&& body) {
  constexpr std::int64_t n = Lanes<T>::kCount;
  const bool inside = span.begin <= special && special < span.end;
  std::int64_t c = span.begin;
  for (std::int64_t end = inside ? special : span.end; c + n <= end; c += n) body(c, c, No{});
  if (inside && c + n <= span.end) body(c, c, Yes{}), c += n;
  for (; c + n <= span.end; c += n) body(c, c, No{});
  if (c < span.end) body(span.end - n, c, Yes{});
}

// Zero in the lanes that were counted before.
template <class T>
KDLOSS_INLINE Lanes<T> only_fresh(Lanes<T> x, std::int64_t stale) {
  return where(lane_index<T>() < Lanes<T>(static_cast<T>(stale)), Lanes<T>(0), x);
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
