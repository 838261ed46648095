// How the loss walks over the classes of a row, or of a tile's rows: what ByLane and ByRow have in common.
//
// A walk goes over sections, one after another or on several threads: a whole tile, or a block of a row. A
// number of a row is a Number: one of the Lanes in a tile, a double of one row. What the loops need of it is
// a Lanes.
#pragma once

#include "terms.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// What is known of a section.
template <class T, class Number>
struct Section {
  Extent<T> extent;            // after the first pass
  Reach<T> reach;              // after the second, as all below: how its terms came about,
  bool squared;                // whether all of p1's exponentials are squares,
  Sums<Number> sums;           // and their sums
  Number soft, slopes, least;  // after the third, where there is one
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
