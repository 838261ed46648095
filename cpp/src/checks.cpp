#include "checks.hpp"

#include <charconv>
#include <cmath>
#include <limits>
#include <new>
#include <stdexcept>

#include "dispatch.hpp"
#include "halves.hpp"
#include "sums.hpp"

namespace kdloss {
namespace {

bool is_weight(double x) { return x >= 0 && x <= std::numeric_limits<double>::max(); }
bool is_tau(double x) { return x > 0 && x <= std::numeric_limits<double>::max(); }
bool has_inverse(double x) { return std::isfinite(x) && std::isfinite(1 / x); }
bool is_share(double x) { return x >= 0 && x <= 1; }

std::string number(double x) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, x).ptr);
}

// Refuses a number, in row i of its array if it has one.
void check_number(const char* name, std::int64_t i, double x, bool fits, const char* expected) {
  if (fits) return;
  throw std::invalid_argument(name + (i < 0 ? "" : "[" + std::to_string(i) + "]") + " is " + number(x) +
                              ", expected " + expected);
}
void check_weight(const char* name, std::int64_t i, double x) {
  check_number(name, i, x, is_weight(x), "a finite number >= 0");
}
void check_tau(std::int64_t i, double x) { check_number("tau", i, x, is_tau(x), "a finite number > 0"); }
void check_share(const char* name, std::int64_t i, double x) {
  check_number(name, i, x, is_share(x), "a number in [0, 1]");
}

[[noreturn]] void refuse_label(std::int64_t i, std::int64_t label, std::int64_t classes,
                               std::int64_t ignore_index, bool unlabelled_allowed, bool one_row) {
  throw std::invalid_argument(
      (one_row ? "label" : "labels[" + std::to_string(i) + "]") + " is " + std::to_string(label) +
      ", expected a class in [0, " + std::to_string(classes) + ")" +
      (unlabelled_allowed ? ", -1 (unlabelled)" : "") + " or " +
      (one_row ? std::to_string(ignore_index) + " ("
               : "ignore_index (" + std::to_string(ignore_index) + ", ") +
      "padding)" + (label == kUnlabelled ? "; without a teacher an unlabelled row has no loss" : ""));
}

// Whether all numbers of an array fit, or there is none: a loop without exits, for the compiler's vectors.
template <class Fits>
bool all(const double* x, std::int64_t count, Fits fits) {
  bool yes = true;
  for (std::int64_t i = 0; x != nullptr && i < count; ++i) yes &= fits(x[i]);
  return yes;
}

// One number of a matrix of any type, for messages.
double element(const AnyView& v, std::int64_t row, std::int64_t c) {
  const std::int64_t at = row * v.row_stride + c * v.class_stride;
  return with_scalar(v.type, [&](auto zero) {
    return static_cast<double>(widened(static_cast<const decltype(zero)*>(v.data)[at]));
  });
}

// What a row's alpha asks for.
void check_inputs(const Labels& labels, bool has_teacher, double alpha) {
  if (!labels.are_indices() && !labels.are_soft() && alpha != 0)
    throw std::invalid_argument("labels is absent, expected one for each row where alpha is not 0");
  if (!has_teacher && alpha != 1)
    throw std::invalid_argument("teacher is absent, expected logits where alpha is not 1");
}

// Whether all rows fit, seen at full speed, and the weight of those that count. False where check_each_row()
// must look: for a message, or for rows that do not count.
bool rows_fit(const Labels& labels, const Options& o, std::int64_t rows, std::int64_t classes,
              bool has_teacher, CountedRows& counted) {
  const bool has_labels = labels.are_indices() || labels.are_soft();
  if (o.alphas != nullptr && !(has_labels && has_teacher && all(o.alphas, rows, is_share))) return false;
  if (!all(o.taus, rows, is_tau) || !all(o.sample_weight, rows, is_weight)) return false;
  const bool padding_is_no_class = o.ignore_index < 0 || o.ignore_index >= classes;
  counted.all_have_class =
      labels.are_indices() && padding_is_no_class && kernels().are_classes(labels, classes);
  if (counted.all_have_class || !labels.are_indices()) {
    counted.weight = o.sample_weight == nullptr
                         ? static_cast<double>(rows)
                         : sum_of(rows, [&](std::int64_t i) { return o.sample_weight[i]; });
    return true;
  }
  if (o.sample_weight != nullptr) return false;
  std::int64_t count = 0, others = 0;  // some are unlabelled or padding
  const std::int64_t least = has_teacher ? kUnlabelled : 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t y = labels[i];
    const bool counts = y != o.ignore_index;
    count += counts, others += counts & ((y < least) | (y >= classes));
  }
  counted.weight = static_cast<double>(count);
  return others == 0;
}

// Row by row, for the first that does not fit and for those that do not count, which may hold anything.
double check_each_row(const Labels& labels, const Options& o, std::int64_t rows, std::int64_t classes,
                      bool has_teacher, bool one_row) {
  EightSums counted;
  for (std::int64_t i = 0; i < rows; ++i) {
    const double weight = o.sample_weight == nullptr ? 1 : o.sample_weight[i];
    check_weight("sample_weight", i, weight);
    const std::int64_t label = labels.are_indices() ? labels[i] : kUnlabelled;
    if (weight == 0 || (labels.are_indices() && label == o.ignore_index)) continue;
    if (o.alphas != nullptr)
      check_share("alpha", i, o.alphas[i]), check_inputs(labels, has_teacher, o.alphas[i]);
    if (o.taus != nullptr) check_tau(i, o.taus[i]);
    counted.sums[i % 8] += weight;
    const bool fits = (label >= 0 && label < classes) || (label == kUnlabelled && has_teacher);
    if (labels.are_indices() && !fits) refuse_label(i, label, classes, o.ignore_index, has_teacher, one_row);
  }
  return counted.total();
}

}  // namespace

std::string shape(std::int64_t rows, std::int64_t classes) {
  return "(" + std::to_string(rows) + ", " + std::to_string(classes) + ")";
}

void check_tau(double tau) { check_tau(-1, tau); }

void check_matrix(const char* name, const void* data, std::int64_t rows, std::int64_t classes) {
  if (classes < 1 || rows < 0)
    throw std::invalid_argument(std::string(name) + " has shape " + shape(rows, classes) + ", expected " +
                                (classes < 1 ? "at least one class" : "no negative number of rows"));
  // More elements than any memory has: of a view with strides of 0, or of none. The sizes below would
  // overflow.
  constexpr std::int64_t kMostElements = std::int64_t{1} << 48;
  if (rows > kMostElements / classes) throw std::bad_alloc();
  check_present(name, data, rows, classes);
}

void check_present(const char* name, const void* data, std::int64_t rows, std::int64_t classes) {
  if (data == nullptr && rows > 0)
    throw std::invalid_argument(std::string(name) + " is absent, expected an array of shape " +
                                shape(rows, classes));
}

void check_classes(const char* name, std::int64_t classes) {
  if (classes < 1)
    throw std::invalid_argument(std::string(name) + " has shape (" + std::to_string(classes) +
                                ",), expected at least one class");
}

void check_same_shape(const char* name, std::int64_t rows, std::int64_t classes, const char* other_name,
                      std::int64_t other_rows, std::int64_t other_classes) {
  if (rows != other_rows || classes != other_classes)
    throw std::invalid_argument(std::string(other_name) + " has shape " + shape(other_rows, other_classes) +
                                ", expected the shape of " + name + ", " + shape(rows, classes));
}

void check_options(const Options& o, std::int64_t classes) {
  if (o.taus == nullptr) check_tau(o.tau);
  if (o.alphas == nullptr) check_share("alpha", -1, o.alpha);
  check_share("label_smoothing", -1, o.label_smoothing);
  check_share("beta", -1, o.beta);
  for (std::int64_t c = 0; o.class_weight != nullptr && c < classes; ++c)
    check_weight("class_weight", c, o.class_weight[c]);
  if (o.normalizer == 0) return;
  check_number("normalizer", -1, o.normalizer, o.normalizer > 0 && has_inverse(o.normalizer),
               "a finite number > 0 with a finite inverse");
  if (o.reduction != Reduction::kMean)
    throw std::invalid_argument(std::string("normalizer is given with reduction '") +
                                (o.reduction == Reduction::kSum ? "sum" : "none") +
                                "', expected it with 'mean' alone");
}

void check_has_hessian(Divergence divergence) {
  if (divergence == Divergence::kKL || divergence == Divergence::kMSE) return;
  const char* const name = divergence == Divergence::kTV          ? "total variation"
                           : divergence == Divergence::kJS        ? "the Jensen-Shannon divergence"
                           : divergence == Divergence::kReverseKL ? "the reverse KL divergence"
                                                                  : "this divergence";
  throw std::invalid_argument(std::string("the Hessian of ") + name +
                              " may have a negative diagonal, expected the divergence 'kl' or 'mse' for it");
}

CountedRows check_rows(const AnyView& student, const Labels& labels, const Options& o,
                       const char* student_name, bool has_teacher, bool one_row) {
  const std::int64_t rows = student.rows, classes = student.classes;
  if (labels.are_soft()) {
    const AnyView& p = labels.probabilities;
    if (p.rows != rows || p.classes != classes)
      throw std::invalid_argument("labels has shape " + shape(p.rows, p.classes) + ", expected " +
                                  shape(rows, classes) + ", the shape of " + student_name + ", or (" +
                                  std::to_string(rows) + ",)");
    if (o.ignore_index != Options{}.ignore_index)
      throw std::invalid_argument("ignore_index is " + std::to_string(o.ignore_index) +
                                  " beside soft labels, which have no label of padding; give padding rows "
                                  "the sample_weight 0");
  } else if (labels.are_indices() && labels.count != rows) {
    throw std::invalid_argument("labels has shape (" + std::to_string(labels.count) + ",), expected (" +
                                std::to_string(rows) + ",), one label for each row of logits");
  }
  if (rows > 0 && o.alphas == nullptr) check_inputs(labels, has_teacher, o.alpha);
  CountedRows counted;
  if (!rows_fit(labels, o, rows, classes, has_teacher, counted))
    counted.weight = check_each_row(labels, o, rows, classes, has_teacher, one_row);
  // The mean's inverse scales the gradient.
  const bool divides = o.reduction == Reduction::kMean && o.normalizer == 0;
  if (divides && o.sample_weight != nullptr && counted.weight > 0)
    check_number("the sum of sample_weight", -1, counted.weight, has_inverse(counted.weight),
                 "one with a finite inverse");
  return counted;
}

void refuse_probabilities(const AnyView& p, std::int64_t row, bool has_teacher) {
  double total = 0;
  const std::string name = "labels[" + std::to_string(row);
  for (std::int64_t c = 0; c < p.classes; ++c) {
    const double y = element(p, row, c);
    if (y < 0)
      throw std::invalid_argument(name + ", " + std::to_string(c) + "] is " + number(y) +
                                  ", expected a probability >= 0");
    total += y;
  }
  throw std::invalid_argument(
      name + "] sums to " + number(total) + ", expected probabilities that sum to 1 within " +
      number(kProbabilityTolerance) +
      (has_teacher ? " (or all zeros: unlabelled)" : "; without a teacher an unlabelled row has no loss"));
}

}  // namespace kdloss
