// The temperature of a row, in the forms that its loops use.
#pragma once

#include "../loss/thresholds.hpp"
#include "../simd/elementary.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

constexpr double kLog2E = 1.4426950408889634;

template <class T>
struct Temperature {
  double in_double;
  T tau, inverse;
  T k;             // exp(x / tau) = 2^(x k)
  T underflow_at;  // where exp_any() becomes 0
  T squarings;     // of exp(x / tau) that give exp(x): 0, 1 or 2 where tau is 1, 2 or 4; else -1
  bool ordinary;   // within the plain path's reach
  explicit Temperature(double t) {
    ordinary = t >= Threshold<T>::kLeastTau && t <= Threshold<T>::kMostTau;
    const double largest = 1e-2 * Format<T>::kLargest;  // beyond, the limits are reached
    t = t > largest ? largest : (t < 1 / largest ? 1 / largest : t);
    in_double = t;
    tau = static_cast<T>(t);
    inverse = static_cast<T>(1 / t);
    k = static_cast<T>(kLog2E / t);
    underflow_at = zero_at<T>(kLog2E / t, Format<T>::kHeadroomExponent);
    squarings = static_cast<T>(t == 1 ? 0 : (t == 2 ? 1 : (t == 4 ? 2 : -1)));
  }
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
