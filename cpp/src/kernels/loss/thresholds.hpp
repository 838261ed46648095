// Every limit of the plain path: how far the arithmetic of the caller's own type keeps the promise.
//
// A row is tested against each limit, in float or in double as its logits are. Where it is beyond one, it is
// computed in the way that the last column names:
//
//     wide terms   terms that may underflow to 0
//     exact gaps   (s - t) - (ms - mt) with the rounding errors of both differences
//     own e1       e1 by an exponential of its own, not as a power of es
//     near terms   KL as the sum of q (expm1(u) - u)
//     exact D      D added up once more in a wider type (exact_growth.hpp)
//     careful      the careful path, which is double
//
// Depth is how far a row's smallest logit lies below its largest. `Error left` is the largest relative error
// that a row within the limit may have because of it, in float; in double it is below 3e-13. A word in its
// place says what the limit protects from. `none`: double needs no such limit.
//
//     name           float     double     of what, in which unit             error left      beyond it
//     kStudentDepth  <= 80     <= 700     student's depth / tau              underflow       wide terms
//     kTeacherDepth  <= 45     <= 700     teacher's depth / tau              3.8e-6 a class  wide terms
//     kPowerDepth    <= 32     <= 1000    teacher's depth, in logits         4e-6            own e1
//     kHardDepth     <= 69     <= 620     student's depth, in logits         underflow       own e1
//     kOffset        <= 16     <= 256     |ms - mt| in logits, over tau, or  1e-6            exact gaps
//                                         over the mean of the gap under q
//     kTail          >= 1e-11  >= 1e-250  hard loss; soft loss / tau^2       3e-6            careful
//     kBalance       <= 100    <= 5400    error of D in the gradient, in     6e-6            exact D
//                                         half-ulps of its largest entry
//     kHessianDepth  <= 100    none       teacher's depth plus twice the     6e-6            careful Hessian
//                                         larger depth of both, / tau
//     kLeastTerm     >= 1e-30  >= 1e-290  mean of (s - t)^2; |sum of         underflow       careful
//                                         es (f - f of the top class)|
//     kLeastTau      >= 1e-15  none       tau                                underflow       careful
//     kMostTau       <= 1e15   <= 1e30    tau                                overflow        careful
//
//     name           both types           of what, in which unit             error left      beyond it
//     kFarKl         >= 0.02              KL                                 2.5e-6          near terms
//     kFarRatio      >= 1 / 8             KL / |log(Zs / Zt)|                2e-6            near terms
//     kNearRatio     >= 1 / 128           soft loss / (tau log(Zs / Zt))^2   4e-6            careful
//     kNearShare     >= 1 / 64            TV / |log(Zs / Zt)|                4e-6            careful
//     kSign          >= 16                |u| of every class, in half-ulps   wrong sign      careful
//                                         of |log(Zs / Zt)| + TV
//     kGrowth        <= 0.5               |D| / Zt                           cancellation    log(Zs / Zt)
//     kShrinkage     <= 0.7               log(Zs / Zt)                       2e-7            et computed anew
//
// For each there are rows that break the promise where it is moved: tests/thresholds.py shows them.
#pragma once

#include "../simd/lanes.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
struct Threshold;
template <>
struct Threshold<float> {
  // exp(-80) is a normal number, and 2^(80 log2 e) has an exponent that a float can hold.
  static constexpr float kStudentDepth = 80;
  // es is et times exp(gap / tau). From 32 to 64 below the largest logit, t - mt and the gap are each off by
  // up to 1.9e-6: es by 3.8e-6, and the ratio of two classes with opposite errors by 7.6e-6.
  static constexpr float kTeacherDepth = 45;
  // The same in logits, where e1 is es^tau: besides, the power multiplies the errors of es's polynomials by
  // tau, which is up to 4. In double it keeps 1.5e-13; without it, 7e-13 would be left.
  static constexpr float kPowerDepth = 32;
  // exp(s - ms) and its multiples are normal numbers down to here; denormal ones would halve the speed.
  // Beyond, e1 may be taken as exp(-69), far below kTail, or where a row has no soft part as 0.
  static constexpr float kHardDepth = 69;
  // Gaps without the rounding errors of s - t and ms - mt are off by 2^-24 |ms - mt|.
  static constexpr float kOffset = 16;
  // A loss this small is a sum of exponentials near exp(-25) and below, whose arguments are each rounded
  // twice, by 2^-24 of 25: 3e-6 of the sum.
  static constexpr float kTail = 1e-11f;
  // An entry p - q = (de - (D / Zs) es) / Zt of a class that both models are sure of is small where D is, and
  // has the error of D.
  static constexpr float kBalance = 100;
  // The Hessian promises each entry, even the smallest, where the rounding errors of all distances add up:
  // 2^-24 of each. Over 1 instead of tau where e1 is a power of es.
  static constexpr float kHessianDepth = 100;
  // Denormal sums lose digits, which a large weight or tau would show.
  static constexpr float kLeastTerm = 1e-30f;
  // tau^2 KL is denormal where tau is smaller still.
  static constexpr double kLeastTau = 1e-15;
  // (tau u)^2 of a single class may overflow where the loss does not.
  static constexpr double kMostTau = 1e15;
};
template <>
struct Threshold<double> {
  static constexpr double kStudentDepth = 700;
  static constexpr double kTeacherDepth = 700;
  static constexpr double kPowerDepth = 1000;
  static constexpr double kHardDepth = 620;
  static constexpr double kOffset = 256;
  static constexpr double kTail = 1e-250;
  static constexpr double kBalance = 5400;
  static constexpr double kHessianDepth = __builtin_inf();  // at most 3,000, of which 2^-53 is 3.3e-13
  static constexpr double kLeastTerm = 1e-290;
  static constexpr double kLeastTau = 0;  // the careful path has no wider type for tau^2 KL
  static constexpr double kMostTau = 1e30;
};

// KL = log_ratio - sum q v, with log_ratio = log(Zs / Zt), is off by some 4 half-ulps of sum q |v| (10 where
// few different logits are rounded all alike). That sum is at most |log_ratio| + sum q |u|, and sum q |u| is
// at most 0.21 where KL is 0.02: by Jensen, h(sum q |u|) <= KL with h(a) = exp(-a) - 1 + a.
constexpr double kFarKl = 0.02;
constexpr double kFarRatio = 1.0 / 8;
// Where nearly all classes have v close to log_ratio, u = v - log_ratio is small and has v's error, a
// half-ulp or two of |log_ratio|: KL and its kind are made of u^2, the total variation of |u|.
constexpr double kNearRatio = 1.0 / 128;
constexpr double kNearShare = 1.0 / 64;
// The total variation's gradient is made of the signs of p - q, and a class's u is off by a few half-ulps.
constexpr double kSign = 16;
// A peaked student under a flat teacher: D is close to -Zt, and Zs has the digits that Zt + D has lost.
constexpr double kGrowth = 0.5;
// et = es - de loses digits where es is many times et.
constexpr double kShrinkage = 0.7;

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
