// Batches with the options of the loss, each of which a test can take away, and all that a call gives for
// them.
#pragma once

#include <algorithm>
#include <limits>

#include "batch.hpp"
#include "check.hpp"

// A row of weight 0, or with kPadding for its label, holds NaN wherever it may.
constexpr std::int64_t kPadding = -100;

// The options of a FullBatch.
enum Use : unsigned {
  kWeights = 1,
  kAlphas = 2,
  kTaus = 4,
  kClassWeights = 8,
  kSmoothing = 16,
  kSoftLabels = 32,
  kNormalizer = 64,
  kBound = 128,
  kUnlabelledRows = 256,
  kPaddingRows = 512,
  kAll = 1023
};

template <class T>
struct FullBatch : Batch<T> {
  double alpha = 0.3, label_smoothing = 0, normalizer = 0;
  kdloss::Reduction reduction = kdloss::Reduction::kMean;
  kdloss::Hessian hessian = kdloss::Hessian::kExact;
  std::vector<double> alphas, taus, sample_weight, class_weight;  // absent where empty
  std::vector<T> probabilities;                                   // class indices where empty
  int threads = 0;

  explicit FullBatch(Batch<T> batch) : Batch<T>(std::move(batch)) {}

  bool soft() const { return !probabilities.empty(); }
  bool counts(std::int64_t i) const { return weight(i) != 0 && (soft() || this->labels[at(i)] != kPadding); }
  double weight(std::int64_t i) const { return sample_weight.empty() ? 1 : sample_weight[at(i)]; }
  double tau_of(std::int64_t i) const { return taus.empty() ? this->tau : taus[at(i)]; }
  double alpha_of(std::int64_t i) const {
    if (target(i).empty()) return 0;
    return alphas.empty() ? alpha : alphas[at(i)];
  }
  // The target of row i over the classes; empty if the row is unlabelled.
  std::vector<Real> target(std::int64_t i) const {
    std::vector<Real> y(at(this->classes));
    if (soft())
      y = this->row(probabilities, i);
    else if (this->labels[at(i)] >= 0)
      y[at(this->labels[at(i)])] = 1;
    return std::all_of(y.begin(), y.end(), [](Real x) { return x == 0; }) ? std::vector<Real>() : y;
  }
  FullTruth full_truth(std::int64_t i) const {
    return reference(this->row(this->student, i), this->row(this->teacher, i), target(i), tau_of(i),
                     label_smoothing, class_weight);
  }

  kdloss::AnyView probability_view() const {
    return kdloss::View<const T>(probabilities.data(), this->rows, this->classes);
  }
  kdloss::Labels target_view() const {
    return soft() ? kdloss::Labels(probability_view()) : this->label_view();
  }
  // The batch of the rows from `first` on.
  kdloss::Options options(std::int64_t first = 0) const {
    const auto from = [&](const std::vector<double>& x) { return x.empty() ? nullptr : x.data() + first; };
    kdloss::Options o;
    o.alpha = alpha, o.tau = this->tau, o.reduction = reduction, o.ignore_index = kPadding;
    o.num_threads = threads;
    o.alphas = from(alphas), o.taus = from(taus), o.sample_weight = from(sample_weight);
    o.class_weight = class_weight.empty() ? nullptr : class_weight.data();
    o.label_smoothing = label_smoothing, o.normalizer = normalizer, o.hessian = hessian;
    return o;
  }

  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
};

// Soft labels of every kind in turn: one class, all classes, two, one with nearly all, and one whose sum is
// not quite 1.
template <class T>
void fill_probabilities(Random& random, std::int64_t i, std::int64_t classes, T* y) {
  std::fill(y, y + classes, T(0));
  const std::int64_t one = random.below(classes), other = random.below(classes);
  if (i % 5 == 0) y[one] = 1;
  if (i % 5 == 1) {
    double total = 0;
    for (std::int64_t c = 0; c < classes; ++c) total += y[c] = static_cast<T>(random.uniform(0.01, 1));
    for (std::int64_t c = 0; c < classes; ++c) y[c] = static_cast<T>(static_cast<double>(y[c]) / total);
  }
  if (i % 5 == 2) y[one] = T(0.25), y[other] += T(0.75);
  if (i % 5 == 3) y[one] = T(1e-6), y[other] += T(1) - T(1e-6);
  if (i % 5 == 4) y[one] = T(0.9995);
}

// Rows of all kinds with the options of `uses` (Use).
template <class T>
FullBatch<T> full_batch(std::int64_t rows, std::int64_t classes, unsigned uses = kAll,
                        std::uint64_t seed = 1) {
  FullBatch<T> batch(random_batch<T>(rows, classes, 4, seed));
  Random random(seed * 7919 + static_cast<std::uint64_t>(rows * 8191 + classes));
  constexpr double kAlphaOf[] = {0.5, 0, 1, 0.9, 0.0625}, kTauOf[] = {4, 1, 2.5, 8, 0.5, 20, 3, 4, 4},
                   kWeightOf[] = {1, 0.3, 2.5, 1e-3, 7, 1.1};
  const auto pick = [&](const auto& from) {
    return from[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(std::size(from))))];
  };
  if (uses & kSoftLabels) batch.probabilities.resize(batch.student.size());
  for (std::int64_t i = 0; i < rows; ++i) {
    if (uses & kAlphas) batch.alphas.push_back(pick(kAlphaOf));
    if (uses & kTaus) batch.taus.push_back(pick(kTauOf));
    if (uses & kWeights) batch.sample_weight.push_back(pick(kWeightOf));
    if (uses & kSoftLabels)
      fill_probabilities(random, i, classes, &batch.probabilities[batch.at(i * classes)]);
  }
  for (std::int64_t c = 0; (uses & kClassWeights) && c < classes; ++c)
    batch.class_weight.push_back(c % 5 == 3 ? 0 : random.uniform(0.2, 3));
  if (uses & kSmoothing) batch.label_smoothing = 0.1;
  if (uses & kNormalizer) batch.normalizer = 12.5;
  if (uses & kBound) batch.hessian = kdloss::Hessian::kBound;

  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::size_t row = batch.at(i);
    T* const y = batch.soft() ? &batch.probabilities[batch.at(i * classes)] : nullptr;
    if ((uses & kUnlabelledRows) && i % 7 == 3) {
      batch.labels[row] = kdloss::kUnlabelled;
      if (y != nullptr) std::fill(y, y + classes, T(0));
    }
    const bool by_weight = i % 9 == 4 && (uses & kWeights), by_label = i % 11 == 6 && !batch.soft();
    if (!(uses & kPaddingRows) || !(by_weight || by_label)) continue;
    batch.labels[row] = kPadding;
    if (by_weight) batch.sample_weight[row] = 0, batch.labels[row] = INT64_MAX;
    if (!batch.alphas.empty()) batch.alphas[row] = kNan;
    if (!batch.taus.empty()) batch.taus[row] = i % 2 == 0 ? kNan : -1;
    for (std::int64_t c = 0; c < classes; ++c) {
      batch.s(i, c) = batch.t(i, c) = static_cast<T>(kNan);
      if (y != nullptr) y[c] = static_cast<T>(kNan);
    }
  }
  return batch;
}

// All results of the functions of the loss.
template <class T>
struct Outcome {
  using Loss = kdloss::RowLoss<T>;
  std::vector<Loss> loss, part_loss, hard, soft;
  std::vector<T> grad, hess;
  double value = 0;
  kdloss::Parts parts;

  bool operator==(const Outcome& o) const {
    return check::same_bits(loss, o.loss) && check::same_bits(part_loss, o.part_loss) &&
           check::same_bits(hard, o.hard) && check::same_bits(soft, o.soft) &&
           check::same_bits(grad, o.grad) && check::same_bits(hess, o.hess) &&
           check::same_bits(value, o.value) && check::same_bits(parts.loss, o.parts.loss) &&
           check::same_bits(parts.hard, o.parts.hard) && check::same_bits(parts.soft, o.parts.soft);
  }
};
template <class T>
Outcome<T> outcome(kdloss::View<const T> student, kdloss::AnyView teacher, const kdloss::Labels& labels,
                   const kdloss::Options& options) {
  const auto rows = static_cast<std::size_t>(student.rows);
  const std::size_t size = rows * static_cast<std::size_t>(student.classes);
  Outcome<T> r;
  r.loss.resize(rows), r.part_loss = r.hard = r.soft = r.loss;
  r.grad.resize(size), r.hess.resize(size);
  r.value =
      kdloss::kd_loss_grad_hess<T>(student, teacher, labels, {r.grad.data(), student.rows, student.classes},
                                   {r.hess.data(), student.rows, student.classes}, options, r.loss.data());
  r.parts = kdloss::kd_loss_parts<T>(student, teacher, labels, options, r.part_loss.data(), r.hard.data(),
                                     r.soft.data());
  return r;
}
template <class T>
Outcome<T> outcome(const FullBatch<T>& batch) {
  return outcome<T>(batch.student_view(), batch.teacher_view(), batch.target_view(), batch.options());
}
