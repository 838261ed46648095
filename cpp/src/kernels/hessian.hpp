// The diagonal of the Hessian, from probabilities that are already there.
//
//     hess = hard_weight p1 (1 - p1) + soft_weight p (1 - p)
//
// 1 - p loses its digits where p is close to 1. At most one class has more than half, and there 1 - p is the
// sum of all others.
#pragma once

#include "columns.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// The largest of some probabilities, and the sum of the smaller ones (of no use where that is no more than
// half).
template <class V>
struct Peak {
  V top, rest;
};
template <class T>
KDLOSS_INLINE Lanes<T> variance(Lanes<T> p, const Peak<Lanes<T>>& peak) {
  using L = Lanes<T>;
  return p * where((p == peak.top) & (L(T(0.5)) < peak.top), peak.rest, L(1) - p);
}

template <class T>
Peak<Lanes<T>> peak_of_row(const T* p, std::int64_t classes) {
  using L = Lanes<T>;
  L top(T(0));
  for_columns<T>({0, classes},
                 [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA { top = max(load(p + c), top); });
  const L largest_p(largest(top));
  double rest = 0;
  for_blocks(classes, [&](Span block) KDLOSS_INLINE_LAMBDA {
    L run(T(0));
    Total<L> sums;
    for_columns<T>(block, [&](std::int64_t c, std::int64_t fresh) KDLOSS_INLINE_LAMBDA {
      const L x = load(p + c), smaller = where(x == largest_p, L(0), x);
      if (run_ends((fresh - block.begin) / L::kCount)) sums.add(run), run = L(0);
      run = run + (fresh == c ? smaller : only_fresh(smaller, fresh - c));
    });
    rest += sum(sums.with(run));
  });
  return {largest_p, L(static_cast<T>(rest))};
}
// One row, whose probabilities lie side by side; p1 or p may be absent.
template <class T>
void hessian_row(const T* p1, const T* p, std::int64_t classes, double hard_weight, double soft_weight,
                 T* hess) {
  using L = Lanes<T>;
  const L hard(static_cast<T>(hard_weight)), soft(static_cast<T>(soft_weight));
  const auto peak = [&](const T* x) { return x == nullptr ? Peak<L>{L(0), L(0)} : peak_of_row(x, classes); };
  const Peak<L> peak1 = peak(p1), peak2 = peak(p);
  for_columns<T>({0, classes}, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA {
    L h(T(0));
    if (p1 != nullptr) h = hard * variance(load(p1 + c), peak1);
    if (p != nullptr) h = fma(soft, variance(load(p + c), peak2), h);
    store(hess + c, h);
  });
}

// The same for a row in each lane.
template <class T>
Peak<Lanes<T>> peak_of_lanes(const T* p, std::int64_t classes) {
  using L = Lanes<T>;
  L top(T(0)), run = top;
  Total<L> rest;
  for (std::int64_t c = 0; c < classes; ++c) top = max(load(p + c * L::kCount), top);
  for (std::int64_t c = 0; c < classes; ++c) {
    const L x = load(p + c * L::kCount);
    if (run_ends(c)) rest.add(run), run = L(0);
    run = run + where(x == top, L(0), x);
  }
  return {top, rest.with(run)};
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
