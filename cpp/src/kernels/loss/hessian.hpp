// The diagonal of the Hessian, from probabilities that are already there.
//
//     hess = hard_weight p1 (1 - p1) + soft_weight p (1 - p)
//
// 1 - p loses its digits where p is close to 1: where a class has more than three quarters, which at most one
// does, the sum of all others stands for it.
#pragma once

#include "../simd/layouts.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
KDLOSS_INLINE Mask<T> is_most(Lanes<T> p) {
  return Lanes<T>(T(0.75)) < p;
}
template <class Layout, class T>
Lanes<T> sum_of_others(const Layout& layout, const T* p) {
  using L = Lanes<T>;
  const auto others = layout.template sums<1>([&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
    const L x = load(p + i);
    return Some<L, 1>{where(is_most(x), L(0), x)};
  });
  return layout.as_lanes(others.x[0]);
}
template <class T>
KDLOSS_INLINE Lanes<T> variance(Lanes<T> p, Lanes<T> others) {
  return p * where(is_most(p), others, Lanes<T>(1) - p);
}

// In lanes hess may be p1 or p.
template <bool Hard, bool Soft, class Layout, class T>
__attribute__((noinline)) void write_hessian(const Layout& layout, const T* p1, const T* p,
                                             Lanes<T> hard_weight, Lanes<T> soft_weight, T* hess) {
  using L = Lanes<T>;
  L others1(T(0)), others(T(0));
  if constexpr (Hard) others1 = sum_of_others(layout, p1);
  if constexpr (Soft) others = sum_of_others(layout, p);
  layout.each([&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
    L h(T(0));
    if constexpr (Hard) h = hard_weight * variance(load(p1 + i), others1);
    if constexpr (Soft) h = fma(soft_weight, variance(load(p + i), others), h);
    store(hess + i, h);
  });
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
