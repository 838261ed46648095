#include "checks.hpp"

#include <charconv>
#include <cmath>
#include <stdexcept>

namespace kdloss {
namespace {

std::string number(double x) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, x).ptr);
}

}  // namespace

std::string shape(std::int64_t rows, std::int64_t classes) {
  return "(" + std::to_string(rows) + ", " + std::to_string(classes) + ")";
}

void check_tau(double tau) {
  if (!(std::isfinite(tau) && tau > 0))
    throw std::invalid_argument("tau is " + number(tau) + ", expected a finite number > 0");
}

void check_alpha(double alpha) {
  if (!(alpha >= 0 && alpha <= 1))
    throw std::invalid_argument("alpha is " + number(alpha) + ", expected a number in [0, 1]");
}

void check_classes(const char* name, std::int64_t rows, std::int64_t classes) {
  if (classes < 1)
    throw std::invalid_argument(std::string(name) + " has shape " + shape(rows, classes) +
                                ", expected at least one class");
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

LabelCounts check_labels(Labels labels, std::int64_t rows, std::int64_t classes, std::int64_t ignore_index,
                         bool unlabelled_allowed, bool one_row) {
  if (labels.data == nullptr) return {rows, 0};
  if (labels.count != rows)
    throw std::invalid_argument("labels has shape (" + std::to_string(labels.count) + ",), expected (" +
                                std::to_string(rows) + ",), one label for each row of logits");
  if (ignore_index < 0 || ignore_index >= classes) {  // the usual case at full speed: every label is a class
    bool classes_all = true;
    for (std::int64_t i = 0; i < rows; ++i)
      classes_all &=
          static_cast<std::uint64_t>(labels.data[i * labels.stride]) < static_cast<std::uint64_t>(classes);
    if (classes_all) return {rows, rows};
  }
  LabelCounts counts{0, 0};
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t label = labels.data[i * labels.stride];
    if (label == ignore_index) continue;
    ++counts.counting;
    if (label >= 0 && label < classes) {
      ++counts.labelled;
    } else if (!(label == kUnlabelled && unlabelled_allowed)) {
      throw std::invalid_argument(
          (one_row ? "label" : "labels[" + std::to_string(i) + "]") + " is " + std::to_string(label) +
          ", expected a class in [0, " + std::to_string(classes) + ")" +
          (unlabelled_allowed ? ", -1 (unlabelled)" : "") + " or ignore_index (" +
          std::to_string(ignore_index) + ", padding)" +
          (label == kUnlabelled ? "; without a teacher an unlabelled row has no loss" : ""));
    }
  }
  return counts;
}

}  // namespace kdloss
