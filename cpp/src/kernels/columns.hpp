// Walks along the columns of one row, a Lanes at a time.
#pragma once

#include "lanes.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

// Few enough additions a lane for a float, enough to hide the horizontal sum.
constexpr std::int64_t kBlock = 1024;
struct Span {
  std::int64_t begin, end;
};

// Calls body(block) for the blocks of a span, whose sums are taken apart and added in double. The last block
// takes up what would be too short for one of its own.
template <class Body>
KDLOSS_INLINE void for_blocks(Span span, Body&& body) {
  for (std::int64_t begin = span.begin; begin < span.end;) {
    const std::int64_t end = span.end - begin < 2 * kBlock ? span.end : begin + kBlock;
    body(Span{begin, end});
    begin = end;
  }
}

// Calls body(column, fresh) for every Lanes of columns in a span, which holds at least one. The last call may
// reach back over columns that were already seen; fresh is the first that was not.
template <class T, class Body>
KDLOSS_INLINE void for_columns(Span span, Body&& body) {
  constexpr std::int64_t n = Lanes<T>::kCount;
  for (std::int64_t fresh = span.begin; fresh < span.end; fresh += n)
    body(fresh + n <= span.end ? fresh : span.end - n, fresh);
}

// Zero in the lanes that were counted before.
template <class T>
KDLOSS_INLINE Lanes<T> only_fresh(Lanes<T> x, std::int64_t stale) {
  alignas(64) T lane[Lanes<T>::kCount];
  store(lane, x);
  for (std::int64_t i = 0; i < stale; ++i) lane[i] = T(0);
  return load(lane);
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
