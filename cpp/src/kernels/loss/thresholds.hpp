// Every threshold of the plain path: up to where its float arithmetic keeps the promise.
//
// A row is on the plain path while it is within these; its own tests, row by row, decide. What is beyond goes
// where the last column says: to exact gaps (with the rounding errors of s - t and ms - mt), to wide terms
// (which may become 0), to the sum of near terms, to an exponential of its own, or to the careful path, which
// is double. `depth` is how far below its row's largest a logit lies. An error is relative, in float; double
// has as much room.
//
//     name             float  double  of what, in which unit          error that is left    beyond it
//     kStudentDepth       80     700  student's depth, tau            (normal numbers)      wide terms
//     kTeacherDepth       45     700  teacher's depth, tau            3.8e-6 a class        wide terms
//     kPowerDepth         32    1000  teacher's depth, logits         1.9e-6, times 4       own exponential
//                                     the same, tau                   1.9e-6, thrice        exact gaps
//     kHardDepth          69     620  student's depth, logits         (normal numbers)      own exponential
//     kOffset             16     256  |ms - mt|, logits and tau       1e-6                  exact gaps
//     kTail            1e-11  1e-250  hard loss; KL                   3e-6                  careful
//     kBalance           100    5400  error of D, half-ulps           6e-6                  exact growth of D
//     kHessianDepth      100    2100  teacher's depth + twice the     6e-6                  careful
//                                     largest gap, tau
//     kFarKl            0.02    0.02  KL                              2.5e-6                near terms
//     kFarRatio        1 / 8   1 / 8  KL over |log(Zs / Zt)|          2e-6                  near terms
//     kNearRatio     1 / 128 1 / 128  soft over (tau log(Zs / Zt))^2  4e-6                  careful
//     kNearShare      1 / 64  1 / 64  TV over |log(Zs / Zt)|          4e-6                  careful
//     kSign               16      16  |tau u|, half-ulps of           (the sign of p - q)   careful
//                                     tau (|log(Zs / Zt)| + TV)
//     kLeastTerm       1e-30  1e-290  mean of (s - t)^2; sum of       (normal numbers)      careful
//                                     es (f - f of the top class)
//     kGrowth            0.5     0.5  |D| / Zt                        (cancellation)        log Zs - log Zt
//     kShrinkage         0.7     0.7  log(Zs / Zt)                    2e-7                  et computed anew
#pragma once

#include "../simd/lanes.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
struct Threshold;
template <>
struct Threshold<float> {
  // exp(-80) is a normal number and 2^(80 log2 e) an exponent. A teacher's logits may not lie as deep: es
  // comes from t - mt and the gap, and where the student wants what the teacher does not, either is rounded
  // by a half-ulp of that distance, 1.9e-6 from 32 to 64; in the ratio of two classes that err in opposite
  // directions 7.6e-6.
  static constexpr float kStudentDepth = 80;
  static constexpr float kTeacherDepth = 45;
  // For what rounds more: p1's exponential taken as a power of es, which multiplies the errors of the
  // polynomials too; and gaps without their rounding errors, where s - t is rounded once more.
  static constexpr float kPowerDepth = 32;
  // es^n = exp(s - ms) and its multiples are normal down to here. Denormal ones would halve the speed;
  // beyond, exp(s - ms) may be taken as 2^-100, far below kTail.
  static constexpr float kHardDepth = 69;
  static constexpr float kOffset = 16;
  // A sum this small is made of exponentials near exp(-25) and below, whose arguments' rounding, 2^-24 of 25
  // twice over, is 3e-6 of the sum.
  static constexpr float kTail = 1e-11f;
  static constexpr float kBalance = 100;
  // The Hessian promises each entry, so that the rounding of each distance counts, 2^-24 of itself. In logits
  // where p1 is a power of es.
  static constexpr float kHessianDepth = 100;
  static constexpr float kLeastTerm = 1e-30f;
  static constexpr double kLeastTau = 1e-15, kMostTau = 1e15;
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
  static constexpr double kHessianDepth = 2100;
  static constexpr double kLeastTerm = 1e-290;
  static constexpr double kLeastTau = 1e-30, kMostTau = 1e30;
};

// L - sum q v is off by some 4 half-ulps of sum q |v| <= |L| + sum q |u|, where few different logits are
// rounded all alike 10, and sum q |u| <= h^-1(KL) with h(a) = exp(-a) - 1 + a, by Jensen: 0.21 where KL =
// 0.02.
constexpr double kFarKl = 0.02, kFarRatio = 1.0 / 8;
// Where nearly all classes agree in v = L and differ in u by little, v's error, a half-ulp or two of |L|, is
// a share of u: of u^2 in the sums of KL's kind, of |u| in the total variation.
constexpr double kNearRatio = 1.0 / 128, kNearShare = 1.0 / 64;
// Whether p or q is larger is what the total variation's gradient is made of.
constexpr double kSign = 16;
// A peaked student under a flat teacher: D is close to -Zt, and Zs has the digits that Zt + D has lost.
constexpr double kGrowth = 0.5;
// et = es - de is as good as et where es is not many times et.
constexpr double kShrinkage = 0.7;

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
