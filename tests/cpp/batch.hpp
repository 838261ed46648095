// Batches for the tests: rows of every difficult kind, in a fixed pseudo-random order.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kdloss/kdloss.hpp"
#include "reference.hpp"

// The same numbers on every machine: standard libraries differ in their distributions, and in the last digit
// of their logarithms and cosines.
class Random {
 public:
  explicit Random(std::uint64_t seed) : bits_(seed) {}
  double uniform(double low, double high) {
    return low + (high - low) * (static_cast<double>(bits_() >> 11) * 0x1p-53);
  }
  // Nearly normal: the sum of twelve uniform numbers has variance 1.
  double normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform(0, 1);
    return sum;
  }
  std::uint64_t bits() { return bits_(); }
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(bits_() % static_cast<std::uint64_t>(n));
  }

 private:
  std::mt19937_64 bits_;
};

enum class Kind {
  kOrdinary,
  kNear,       // the student nearly equals its teacher
  kShifted,    // the same, and both rows far from zero
  kConfident,  // one class has nearly all of the probability
  kFlat,
  kPeakedOnFlat,
  kFlatOnPeaked,
  kHugeGap,  // logits in the thousands
  kTies,
  kEqual,
  kCount
};

template <class T>
void fill(Kind kind, Random& random, std::int64_t classes, T* s, T* t) {
  const std::int64_t peak = random.below(classes), other = random.below(classes);
  const double shift = random.uniform(-1e4, 1e4);
  const double closeness = std::ldexp(1.0, -3 - static_cast<int>(random.below(21)));
  for (std::int64_t c = 0; c < classes; ++c) {
    const double a = random.normal(), b = random.normal();
    double student = 3 * a, teacher = 3 * b;
    if (kind == Kind::kNear) student = teacher + closeness * a;
    if (kind == Kind::kShifted) teacher = shift + 3 * b, student = teacher - 2 * shift + closeness * a;
    if (kind == Kind::kConfident) teacher += c == peak ? 30 : 0, student += c == peak ? 25 : 0;
    if (kind == Kind::kFlat) student = 1e-3 * a, teacher = 1e-3 * b;
    if (kind == Kind::kPeakedOnFlat) student += c == peak ? 40 : 0, teacher = 1e-2 * b;
    if (kind == Kind::kFlatOnPeaked) student = 1e-2 * a, teacher += c == peak ? 40 : 0;
    if (kind == Kind::kHugeGap) student = 2000 * a, teacher = 2000 * b;
    if (kind == Kind::kTies) student = c == peak || c == other ? 5 : 0, teacher = c == other ? 5 : 0;
    if (kind == Kind::kEqual) student = teacher = static_cast<double>(static_cast<T>(teacher));
    s[c] = static_cast<T>(student);
    t[c] = static_cast<T>(teacher);
  }
}

template <class T>
struct Batch {
  std::int64_t rows, classes;
  double tau;
  std::vector<T> student, teacher;
  std::vector<std::int64_t> labels;

  Batch(std::int64_t rows_, std::int64_t classes_, double tau_ = 4)
      : rows(rows_),
        classes(classes_),
        tau(tau_),
        student(static_cast<std::size_t>(rows * classes)),
        teacher(student.size()),
        labels(static_cast<std::size_t>(rows)) {}

  T& s(std::int64_t row, std::int64_t c) { return student[static_cast<std::size_t>(row * classes + c)]; }
  T& t(std::int64_t row, std::int64_t c) { return teacher[static_cast<std::size_t>(row * classes + c)]; }
  kdloss::View<const T> student_view() const { return {student.data(), rows, classes}; }
  kdloss::View<const T> teacher_view() const { return {teacher.data(), rows, classes}; }
  kdloss::Labels label_view() const { return {labels.data(), rows}; }

  std::vector<Real> row(const std::vector<T>& logits, std::int64_t i) const {
    return {logits.begin() + i * classes, logits.begin() + (i + 1) * classes};
  }
  Truth truth(std::int64_t i) const {
    return reference(row(student, i), row(teacher, i), labels[static_cast<std::size_t>(i)], tau);
  }
};

// Rows of all kinds in turn, so that the rows of a tile differ.
template <class T>
Batch<T> random_batch(std::int64_t rows, std::int64_t classes, double tau = 4, std::uint64_t seed = 1) {
  Random random(seed * 1000003 + static_cast<std::uint64_t>(rows * 131071 + classes));
  Batch<T> batch(rows, classes, tau);
  for (std::int64_t i = 0; i < rows; ++i) {
    const int kind =
        static_cast<int>((static_cast<std::uint64_t>(i) + seed) % static_cast<int>(Kind::kCount));
    fill(static_cast<Kind>(kind), random, classes, &batch.s(i, 0), &batch.t(i, 0));
    batch.labels[static_cast<std::size_t>(i)] = random.below(classes);
  }
  return batch;
}
