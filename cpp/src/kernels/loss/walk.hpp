// How the loss walks over the classes of a row, or of a tile's rows: what ByLane and ByRow have in common.
//
// A walk goes over sections, one after another or on several threads: a whole tile, or a block of a row. A
// number of a row is a Number: one of the Lanes in a tile, a double of one row. What the loops need of it is
// a Lanes.
#pragma once

#include "terms.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// The results of each pass over a section, not yet added up over the lanes.
template <class T>
struct Section {
  Extent<T> extent;     // after the first pass
  int squarings;        // after the second: how often es is squared for e1, or -1 where e1 is stored,
  Sums<Lanes<T>> sums;  // and the sums
  DivergenceSums<Lanes<T>> third;  // after the third, where there is one
};

// Its classes. `column` is where they begin in the row.
template <class T, class Labels, class Ahead>
struct Classes {
  Groups<T> groups;
  Labels labels;
  Ahead ahead;
  std::int64_t column;
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
