// The Kullback-Leibler divergence of rows of probabilities.
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

#include "checks.hpp"
#include "kdloss/kdloss.hpp"
#include "kernel_table.hpp"

namespace kdloss {
namespace {

// q log(q / p) - q + p = q (x - log1p(x)) with x = p / q - 1. With r = x / (2 + x), log1p(x) = 2 atanh(r) and
// x - 2 r = x r, so that near x = 0 nothing cancels: x r - 2 r^3 (1/3 + r^2/5 + ...).
double term(double q, double p) {
  if (std::isnan(q) || std::isnan(p)) return q + p;
  if (q == 0) return p;
  if (p == 0) return std::numeric_limits<double>::infinity();
  const double x = (p - q) / q;
  if (std::fabs(x) > 0.25) {
    const double ratio = q / p;  // which may leave the range of numbers, where its logarithm does not
    return q * (std::isnormal(ratio) ? std::log(ratio) : std::log(q) - std::log(p)) - q + p;
  }
  const double r = x / (2 + x), z = r * r;
  double series = 0;  // |r| <= 1/7: ten terms are enough
  for (int odd = 21; odd >= 3; odd -= 2) series = series * z + 1.0 / odd;
  return q * (x * r - 2 * r * z * series);
}

// one_row: messages name its entries by one number.
template <class T>
void check_are_probabilities(const char* name, const View<const T>& v, bool one_row) {
  for (std::int64_t i = 0; i < v.rows; ++i) {
    double sum = 0;
    for (std::int64_t c = 0; c < v.classes; ++c) {
      const double x = static_cast<double>(v.data[i * v.row_stride + c * v.class_stride]);
      if (x < 0) {
        std::ostringstream text;
        text << name << "[" << (one_row ? "" : std::to_string(i) + ", ") << c << "] is " << x
             << ", expected probabilities, which are >= 0";
        throw std::invalid_argument(text.str());
      }
      sum += x;
    }
    if (std::fabs(sum - 1) > kProbabilityTolerance) {
      std::ostringstream text;
      text.precision(9);
      text << name << (one_row ? "" : "[" + std::to_string(i) + "]") << " sums to " << sum
           << ", expected probabilities, which sum to 1 (within " << kProbabilityTolerance
           << "); softmax_temp makes them from logits";
      throw std::invalid_argument(text.str());
    }
  }
}

template <class T>
double divergence(View<const T> q, View<const T> p, Reduction reduction, T* row_divergences, bool one_row) {
  check_present("q", q.data, q.rows, q.classes);
  check_present("p", p.data, p.rows, p.classes);
  check_are_probabilities("q", q, one_row);
  check_are_probabilities("p", p, one_row);
  double total = 0;
  for (std::int64_t i = 0; i < q.rows; ++i) {
    double kl = 0;
    for (std::int64_t c = 0; c < q.classes; ++c)
      kl += term(static_cast<double>(q.data[i * q.row_stride + c * q.class_stride]),
                 static_cast<double>(p.data[i * p.row_stride + c * p.class_stride]));
    if (row_divergences != nullptr) row_divergences[i] = static_cast<T>(kl);
    total += kl;
  }
  if (reduction == Reduction::kNone) return 0;
  return reduction == Reduction::kMean && q.rows > 0 ? total / static_cast<double>(q.rows) : total;
}

}  // namespace

template <class T>
double kl_divergence(View<const T> q, View<const T> p, Reduction reduction, T* row_divergences) {
  check_matrix("q", q.data, q.rows, q.classes);
  check_same_shape("q", q.rows, q.classes, "p", p.rows, p.classes);
  return divergence(q, p, reduction, row_divergences, false);
}
template <class T>
double kl_divergence_single(const T* q, const T* p, std::int64_t classes) {
  check_classes("q", classes);
  return divergence<T>({q, 1, classes}, {p, 1, classes}, Reduction::kSum, nullptr, true);
}

template double kl_divergence(View<const float>, View<const float>, Reduction, float*);
template double kl_divergence(View<const double>, View<const double>, Reduction, double*);
template double kl_divergence_single(const float*, const float*, std::int64_t);
template double kl_divergence_single(const double*, const double*, std::int64_t);

}  // namespace kdloss
