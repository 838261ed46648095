// The two ways in which numbers fill the lanes: sixteen neighbouring classes of one row, or one class of
// sixteen rows. InRow and InLanes let a formula be written once for both.
#pragma once

#include "lanes.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Classes of a block: few enough to be summed in float, and enough to make up for the horizontal sum at the
// end.
constexpr std::int64_t kBlock = 1024;
struct Span {
  std::int64_t begin, end;
};

// The blocks of a row are summed separately, and their sums added in double. The last block also takes what
// would be too short for a block of its own.
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

// Zero in the lanes that were seen before.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> only_fresh(Lanes<T, P> x, std::int64_t stale) {
  return where(lane_index<T, P>() < Lanes<T, P>(static_cast<T>(stale)), Lanes<T, P>(0), x);
}

template <class V, int N>
struct Some {
  V x[N];
};
// Sums of N numbers at a time, over a row or one of its blocks.
template <class T, int N>
class RunningSums {
 public:
  KDLOSS_INLINE void add(std::int64_t place, const Some<Lanes<T>, N>& v) {
    if (run_ends(place))
      for (int i = 0; i < N; ++i) totals_[i].add(run_[i]), run_[i] = Lanes<T>(0);
    for (int i = 0; i < N; ++i) run_[i] = run_[i] + v.x[i];
  }
  KDLOSS_INLINE Lanes<T> total(int i) const { return totals_[i].with_or_infinite(run_[i]); }

 private:
  Lanes<T> run_[N] = {};
  Total<Lanes<T>> totals_[N];
};

// One row, whose classes lie side by side. A number of the row is a double, and as lanes the same in each.
template <class T>
struct InRow {
  using Number = Vector<double>;
  using Class = std::int64_t;  // one of the row
  static constexpr int kRows = 1;
  std::int64_t classes;

  // Calls body(i) for the place of each Lanes of numbers; the last may reach back.
  template <class Body>
  KDLOSS_INLINE void each(Body&& body) const {
    for_columns<T>({0, classes}, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA { body(c); });
  }
  // The sums of the N numbers that f(i) gives.
  template <int N, class F>
  KDLOSS_INLINE Some<Number, N> sums(F&& f) const {
    double all[N] = {};
    for_blocks(classes, [&](Span block) KDLOSS_INLINE_LAMBDA {
      RunningSums<T, N> running;
      for_columns<T>(block, [&](std::int64_t c, std::int64_t fresh) KDLOSS_INLINE_LAMBDA {
        Some<Lanes<T>, N> v = f(c);
        if (fresh != c)
          for (int i = 0; i < N; ++i) v.x[i] = only_fresh(v.x[i], fresh - c);
        running.add((fresh - block.begin) / Lanes<T>::kCount, v);
      });
      for (int i = 0; i < N; ++i) all[i] += sum(running.total(i));
    });
    Some<Number, N> result;
    for (int i = 0; i < N; ++i) result.x[i] = Number(all[i]);
    return result;
  }
  // The first class at which f(i) is true, or the last class.
  template <class F>
  KDLOSS_INLINE Class first_where(F&& f) const {
    constexpr std::int64_t n = Lanes<T>::kCount;
    std::int64_t i = 0, in_lanes = 0;
    while (i + n < classes && !any(f(i))) i += n;
    i = i + n < classes ? i : classes - n;
    const Lanes<T> found = where(f(i), Lanes<T>(1), Lanes<T>(0));
    while (in_lanes + 1 < n && lane(found, in_lanes) == 0) ++in_lanes;
    return i + in_lanes;
  }
  // Where the Lanes at place i are those of that class.
  static Mask<T> holds(Class c, std::int64_t i) { return lane_index<T>() == Lanes<T>(static_cast<T>(c - i)); }
  // x at that class becomes f of itself.
  template <class F>
  static void change_at(T* x, Class c, F&& f) {
    x[c] = static_cast<T>(first(f(Number(static_cast<double>(x[c])))));
  }
  static Class choose(Mask<double, 1> m, Class yes, Class no) { return any(m) ? yes : no; }
  static std::int64_t index(int, std::int64_t c) { return c; }
  static Lanes<T> largest_in_row(Lanes<T> x) { return largest(x); }
  static Lanes<T> as_lanes(Number x) { return static_cast<T>(first(x)); }
  static Number as_number(Lanes<T> x) { return static_cast<double>(first(x)); }
};

// A row in each lane, class by class. A number of the rows is a Lanes.
template <class T>
struct InLanes {
  using Number = Lanes<T>;
  using Class = Lanes<T>;
  static constexpr int kRows = Lanes<T>::kCount;
  std::int64_t classes;

  template <class Body>
  KDLOSS_INLINE void each(Body&& body) const {
    for (std::int64_t c = 0; c < classes; ++c) body(c * Lanes<T>::kCount);
  }
  template <int N, class F>
  KDLOSS_INLINE Some<Number, N> sums(F&& f) const {
    RunningSums<T, N> running;
    each([&](std::int64_t i) KDLOSS_INLINE_LAMBDA { running.add(i / Lanes<T>::kCount, f(i)); });
    Some<Number, N> result;
    for (int i = 0; i < N; ++i) result.x[i] = running.total(i);
    return result;
  }
  template <class F>
  KDLOSS_INLINE Class first_where(F&& f) const {
    Class found(static_cast<T>(classes - 1));
    for (std::int64_t c = classes - 1; c-- > 0;) found = where(f(c * kRows), Class(static_cast<T>(c)), found);
    return found;
  }
  static Mask<T> holds(Class c, std::int64_t i) { return c == Class(static_cast<T>(i / kRows)); }
  template <class F>
  static void change_at(T* x, Class c, F&& f) {
    alignas(64) T of_row[kRows], number[kRows];
    store(of_row, c);
    const auto at = [&](int i) -> T& { return x[index(i, static_cast<std::int64_t>(of_row[i]))]; };
    for (int i = 0; i < kRows; ++i) number[i] = at(i);
    store(number, f(load(number)));
    for (int i = 0; i < kRows; ++i) at(i) = number[i];
  }
  static Class choose(Mask<T> m, Class yes, Class no) { return where(m, yes, no); }
  static std::int64_t index(int row, std::int64_t c) { return c * kRows + row; }
  static Lanes<T> largest_in_row(Lanes<T> x) { return x; }
  static Lanes<T> as_lanes(Number x) { return x; }
  static Number as_number(Lanes<T> x) { return x; }
};

// The first class of a row whose number is `most`, or the last class.
template <class T>
std::int64_t top_class(const T* row, std::int64_t classes, Lanes<T> most) {
  return InRow<T>{classes}.first_where([&](std::int64_t c)
                                           KDLOSS_INLINE_LAMBDA { return load(row + c) == most; });
}

// The largest of the numbers f(i), in a row or in each.
template <class Layout, class F>
KDLOSS_INLINE auto largest_of(const Layout& layout, F&& f) {
  decltype(f(0)) most(-__builtin_inf());
  layout.each([&](std::int64_t i) KDLOSS_INLINE_LAMBDA { most = max(f(i), most); });
  return Layout::largest_in_row(most);
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
