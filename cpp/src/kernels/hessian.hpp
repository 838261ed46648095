// The diagonal of the Hessian, from probabilities that are already there.
//
//     hess = hard_weight p1 (1 - p1) + soft_weight p (1 - p)
//
// 1 - p loses its digits where p is close to 1. At most one class has more than half, and there 1 - p is the
// sum of all others.
#pragma once

#include "layouts.hpp"

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

template <class Layout, class T>
Peak<Lanes<T>> peak_of(const Layout& layout, const T* p) {
  using L = Lanes<T>;
  const L top = largest_of(layout, [&](std::int64_t i) KDLOSS_INLINE_LAMBDA { return load(p + i); });
  const auto rest = layout.template sums<1>([&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
    const L x = load(p + i);
    return Some<L, 1>{where(x == top, L(0), x)};
  });
  return {top, layout.as_lanes(rest.x[0])};
}
// In lanes hess may be p1 or p.
template <bool Hard, bool Soft, class Layout, class T>
__attribute__((noinline)) void write_hessian(const Layout& layout, const T* p1, const T* p,
                                             Lanes<T> hard_weight, Lanes<T> soft_weight, T* hess) {
  using L = Lanes<T>;
  Peak<L> peak1{L(0), L(0)}, peak2 = peak1;
  if constexpr (Hard) peak1 = peak_of(layout, p1);
  if constexpr (Soft) peak2 = peak_of(layout, p);
  layout.each([&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
    L h(T(0));
    if constexpr (Hard) h = hard_weight * variance(load(p1 + i), peak1);
    if constexpr (Soft) h = fma(soft_weight, variance(load(p + i), peak2), h);
    store(hess + i, h);
  });
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
