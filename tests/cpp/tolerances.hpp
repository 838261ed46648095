// The tolerances of all C++ tests, each with its reason; the tests name them and hold no numbers.
//
// Relative, unless a comment says otherwise. The elementary functions' are in docs/accuracy.csv.
#pragma once

namespace tolerance {

// What the public header promises for the hard loss, the soft loss and each part of the gradient. Softmax,
// log-softmax, log-sum-exp and the divergence of probabilities are held to it too.
template <class T>
inline constexpr double kPromise = 0;
template <>
inline constexpr double kPromise<float> = 1e-5;
template <>
inline constexpr double kPromise<double> = 1e-12;

// The sum of a row's gradient, which is zero, beside the number of classes times the largest entry: each
// entry is rounded at the size of the largest, by up to four half-ulps, and they may all be rounded the same
// way; and the sums Zs and D, which scale them, are off by a half-ulp or two.
template <class T>
inline constexpr double kRowSum = 0;
template <>
inline constexpr double kRowSum<float> = 6 * 0x1p-24;
template <>
inline constexpr double kRowSum<double> = 6 * 0x1p-53;

// The reference against the exact numbers in tests/data: a hundredth of the promise in double, since a test
// that compares with the reference lends its error to the kernels.
constexpr double kReference = 1e-14;

// A mean beside the same mean put together by the test in another order: both in double, a few hundred rows.
constexpr double kMean = 1e-13;

// A mean of losses that were rounded to their type when they were written to rows, beside the mean of the
// unrounded ones: half an ulp, and in double the order of the sum.
template <class T>
inline constexpr double kRounded = 0;
template <>
inline constexpr double kRounded<float> = 6e-8;
template <>
inline constexpr double kRounded<double> = kMean;

// Central differences of the loss in double with step h: h^2 from the third derivative, which is below 1, and
// the loss's own error 1e-12 / h. With h = 1e-4 both are 1e-8. Absolute, for losses near 1.
constexpr double kDifferenceStep = 1e-4;
constexpr double kFiniteDifference = 1e-7;

}  // namespace tolerance
