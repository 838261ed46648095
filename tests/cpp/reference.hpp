// The loss of one row, its gradient and its Hessian, slowly: in long double, class after class, as the
// formula is written.
//
//     p1 = softmax(s)      p = softmax(s / tau)      q = softmax(t / tau)
//     hard = -log p1[y]                              d hard / ds = p1 - onehot(y)
//     soft = tau^2 KL(q || p)                        d soft / ds = tau (p - q)
//
//     hard = sum g (-log p1)     W = sum g           d hard / ds = W p1 - g          for a target g
//     the diagonals of the Hessians                  W p1 (1 - p1)  and  p (1 - p)
//
// Eleven more bits than double are not enough to subtract logarithms of nearly equal probabilities, so KL is
// the sum of q (exp(u) - 1 - u) with u = log(p / q), and u comes from the exact differences of the logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

using Real = long double;

struct Truth {
  Real hard = 0, soft = 0;
  std::vector<Real> grad_hard, grad_soft;
};

// And the Hessian; most_hard and most_soft are what the gradient's errors are relative to.
struct FullTruth : Truth {
  std::vector<Real> hess_hard, hess_soft;
  Real most_hard = 0, most_soft = 0;
};

inline constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

// exp(u) - 1 - u for |u| < 1, from its power series.
inline Real expm1_remainder(Real u) {
  Real term = u * u / 2, sum = 0;
  for (int n = 3; n < 30; ++n) {
    sum += term;
    term *= u / n;
  }
  return sum;
}

inline void reference_hard(const std::vector<Real>& s, std::size_t y, Truth& truth) {
  const Real ms = *std::max_element(s.begin(), s.end());
  Real others = 0;
  for (std::size_t c = 0; c < s.size(); ++c)
    if (c != y) others += std::exp(s[c] - ms);
  const Real total = others + std::exp(s[y] - ms);
  truth.hard = s[y] == ms ? std::log1p(others) : std::log(total) + (ms - s[y]);
  for (std::size_t c = 0; c < s.size(); ++c)
    truth.grad_hard.push_back((c == y ? -others : std::exp(s[c] - ms)) / total);
}

// a - b is value + error, exactly.
struct ExactDifference {
  Real value, error;
  ExactDifference(Real a, Real b) : value(a - b) {
    const Real minus_b = value - a;
    error = (a - (value - minus_b)) - (b + minus_b);
  }
};

// (s - t) - (ms - mt), also where s and t agree in all but their last digits, or share an offset that hides
// these.
inline Real gap(Real s, Real t, Real ms, Real mt) {
  if (std::isinf(s - t)) return s - t;
  const ExactDifference d(s, t), dm(ms, mt);
  return (d.value - dm.value) + (d.error - dm.error);
}

inline void reference_soft(const std::vector<Real>& s, const std::vector<Real>& t, Real tau, Truth& truth) {
  const std::size_t classes = s.size();
  const Real ms = *std::max_element(s.begin(), s.end()), mt = *std::max_element(t.begin(), t.end());
  std::vector<Real> v(classes), es(classes), et(classes);  // v = log(es / et)
  Real zs = 0, zt = 0, difference = 0;                     // difference = Zs - Zt
  for (std::size_t c = 0; c < classes; ++c) {
    es[c] = std::exp((s[c] - ms) / tau);
    et[c] = std::exp((t[c] - mt) / tau);
    v[c] = gap(s[c], t[c], ms, mt) / tau;
    zs += es[c];
    zt += et[c];
    difference += std::fabs(v[c]) < 1 ? et[c] * std::expm1(v[c]) : es[c] - et[c];
  }
  const Real log_ratio = std::fabs(difference) < zt / 2 ? std::log1p(difference / zt) : std::log(zs / zt);

  Real kl = 0;
  for (std::size_t c = 0; c < classes; ++c) {
    const Real p = es[c] / zs, q = et[c] / zt, u = v[c] - log_ratio;
    const bool close = std::fabs(u) < 1;
    if (t[c] == -kInfinity)
      kl += p;  // masked by the teacher, where q log q = 0; by both, where p = 0 too
    else if (s[c] == -kInfinity)
      kl = kInfinity;  // masked by the student alone
    else
      kl += close ? q * expm1_remainder(u) : p - q - q * u;
    truth.grad_soft.push_back(tau * (close ? q * std::expm1(u) : p - q));
  }
  truth.soft = tau * tau * kl;
}

// label < 0: no hard part, and its gradient is zero.
inline Truth reference(const std::vector<Real>& s, const std::vector<Real>& t, std::int64_t label,
                       double tau) {
  Truth truth;
  reference_soft(s, t, tau, truth);
  if (label >= 0)
    reference_hard(s, static_cast<std::size_t>(label), truth);
  else
    truth.grad_hard.assign(s.size(), 0);
  return truth;
}

inline Real largest_magnitude(const std::vector<Real>& x) {
  Real most = 0;
  for (Real v : x) most = std::max(most, std::fabs(v));
  return most;
}

// p (1 - p) of the softmax; 1 - p of the largest class is the sum of the others.
inline std::vector<Real> reference_variance(const std::vector<Real>& s, Real tau) {
  const auto top = static_cast<std::size_t>(std::max_element(s.begin(), s.end()) - s.begin());
  std::vector<Real> e;
  Real others = 0;
  for (std::size_t c = 0; c < s.size(); ++c) {
    e.push_back(std::exp((s[c] - s[top]) / tau));
    if (c != top) others += e[c];
  }
  const Real total = others + 1;
  for (std::size_t c = 0; c < s.size(); ++c) e[c] *= (c == top ? others : total - e[c]) / (total * total);
  return e;
}

// What a row is to learn: y over the classes, smoothed, times the class weights (none: empty).
inline std::vector<Real> reference_target(std::vector<Real> y, double smoothing,
                                          const std::vector<double>& class_weight) {
  const auto classes = static_cast<Real>(y.size());
  for (Real& x : y) x = (1 - Real(smoothing)) * x + smoothing / classes;
  for (std::size_t c = 0; c < class_weight.size(); ++c) y[c] *= class_weight[c];
  return y;
}

// The hard part for a target over the classes. Where W p1 - g is one class's alone, it is relative to its
// largest entry; else to the largest of the terms W p1 and g.
inline void reference_target_hard(const std::vector<Real>& s, const std::vector<Real>& y, double smoothing,
                                  const std::vector<double>& class_weight, FullTruth& truth) {
  const std::size_t classes = s.size();
  const std::vector<Real> g = reference_target(y, smoothing, class_weight);
  Real sum = 0;
  for (Real x : g) sum += x;
  const auto is_wanted = [](Real x) { return x != 0; };
  truth.hess_hard = reference_variance(s, 1);
  for (Real& h : truth.hess_hard) h *= sum;
  if (smoothing == 0 && std::count_if(y.begin(), y.end(), is_wanted) == 1) {
    reference_hard(s, static_cast<std::size_t>(std::find_if(y.begin(), y.end(), is_wanted) - y.begin()),
                   truth);
    truth.hard = sum == 0 ? 0 : sum * truth.hard;
    for (Real& x : truth.grad_hard) x *= sum;
    truth.most_hard = largest_magnitude(truth.grad_hard);
    return;
  }
  const auto top = static_cast<std::size_t>(std::max_element(s.begin(), s.end()) - s.begin());
  Real others = 0;
  for (std::size_t c = 0; c < classes; ++c)
    if (c != top) others += std::exp(s[c] - s[top]);
  for (std::size_t c = 0; c < classes; ++c) {
    const Real wanted_p = sum * std::exp(s[c] - s[top]) / (1 + others);
    if (g[c] != 0) truth.hard += g[c] * (std::log1p(others) + (s[top] - s[c]));
    truth.grad_hard.push_back(wanted_p - g[c]);
    truth.most_hard = std::max({truth.most_hard, wanted_p, g[c]});
  }
}

// y is over the classes, or empty: unlabelled.
inline FullTruth reference(const std::vector<Real>& s, const std::vector<Real>& t, const std::vector<Real>& y,
                           double tau, double smoothing, const std::vector<double>& class_weight) {
  FullTruth truth;
  reference_soft(s, t, tau, truth);
  truth.most_soft = largest_magnitude(truth.grad_soft);
  truth.hess_soft = reference_variance(s, tau);
  if (!y.empty()) {
    reference_target_hard(s, y, smoothing, class_weight, truth);
  } else {
    truth.grad_hard.assign(s.size(), 0);
    truth.hess_hard.assign(s.size(), 0);
  }
  return truth;
}

// |found - truth| / |scale|, where a scale below T's smallest normal number counts as that; 0 for equal
// infinities and for two NaN.
template <class T>
double relative_error(Real found, Real truth, Real scale) {
  if (found == truth || (std::isnan(found) && std::isnan(truth))) return 0;
  return static_cast<double>(std::fabs(found - truth) /
                             std::max(std::fabs(scale), static_cast<Real>(std::numeric_limits<T>::min())));
}
