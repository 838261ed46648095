// The loss of one row and its gradient, slowly: in long double, class after class, as the formula is written.
//
//     p1 = softmax(s)      p = softmax(s / tau)      q = softmax(t / tau)
//     hard = -log p1[y]                              d hard / ds = p1 - onehot(y)
//     soft = tau^2 KL(q || p)                        d soft / ds = tau (p - q)
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

inline constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

// exp(u) - 1 - u for |u| < 1, by its power series.
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

// |found - truth| / |scale|, where a scale below T's smallest normal number counts as that; 0 for equal
// infinities and for two NaN.
template <class T>
double relative_error(Real found, Real truth, Real scale) {
  if (found == truth || (std::isnan(found) && std::isnan(truth))) return 0;
  return static_cast<double>(std::fabs(found - truth) /
                             std::max(std::fabs(scale), static_cast<Real>(std::numeric_limits<T>::min())));
}
