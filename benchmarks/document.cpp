// The loss as the knowledge-distillation document computes it: rows as vectors of double, a
// separate softmax for each distribution, a guard of 1e-12 inside the logarithms, one thread.
// A peer to compare with, not a part of kdloss. extern "C" so that ctypes can call it.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

using Row = std::vector<double>;
using Matrix = std::vector<Row>;

constexpr double kGuard = 1e-12;

double log_sum_exp(const Row& z) {
  const double largest = *std::max_element(z.begin(), z.end());
  double total = 0.0;
  for (const double value : z) total += std::exp(value - largest);
  return largest + std::log(total);
}

Row softmax(const Row& logits, double tau) {
  Row scaled;
  scaled.reserve(logits.size());
  for (const double value : logits) scaled.push_back(value / tau);
  const double normaliser = log_sum_exp(scaled);
  for (double& value : scaled) value = std::exp(value - normaliser);
  return scaled;
}

// KL(q || p), teacher first.
double kl_divergence(const Row& q, const Row& p) {
  double sum = 0.0;
  for (std::size_t c = 0; c < q.size(); ++c) {
    if (q[c] > 0.0) sum += q[c] * (std::log(q[c] + kGuard) - std::log(std::max(p[c], kGuard)));
  }
  return sum;
}

struct Batch {
  Matrix student, teacher, grad;
  std::vector<std::int64_t> labels;
};

std::size_t label_of(const Batch& batch, std::size_t row) {
  return static_cast<std::size_t>(batch.labels[row]);
}

template <class Float>
Matrix rows_of(const Float* values, std::size_t rows, std::size_t cols) {
  Matrix matrix;
  matrix.reserve(rows);
  for (std::size_t b = 0; b < rows; ++b) {
    matrix.emplace_back(values + b * cols, values + (b + 1) * cols);
  }
  return matrix;
}

template <class Float>
Batch* make_batch(const Float* student, const Float* teacher, const std::int64_t* labels, std::size_t rows,
                  std::size_t cols) {
  return new Batch{rows_of(student, rows, cols), rows_of(teacher, rows, cols), Matrix{},
                   std::vector<std::int64_t>(labels, labels + rows)};
}

double batch_loss(const Batch& batch, double alpha, double tau) {
  const std::size_t rows = batch.student.size();
  double sum = 0.0;
  for (std::size_t b = 0; b < rows; ++b) {
    const Row& logits = batch.student[b];
    const double hard = log_sum_exp(logits) - logits[label_of(batch, b)];
    const Row p = softmax(logits, tau);
    const Row q = softmax(batch.teacher[b], tau);
    sum += alpha * hard + (1.0 - alpha) * tau * tau * kl_divergence(q, p);
  }
  return sum / static_cast<double>(rows);
}

double batch_loss_and_grad(Batch& batch, double alpha, double tau) {
  const std::size_t rows = batch.student.size();
  Matrix grad(rows, Row(batch.student[0].size()));
  double sum = 0.0;
  for (std::size_t b = 0; b < rows; ++b) {
    const Row& logits = batch.student[b];
    const double normaliser = log_sum_exp(logits);
    const double hard = normaliser - logits[label_of(batch, b)];
    Row p1(logits.size());
    for (std::size_t c = 0; c < logits.size(); ++c) p1[c] = std::exp(logits[c] - normaliser);
    const Row p = softmax(logits, tau);
    const Row q = softmax(batch.teacher[b], tau);
    sum += alpha * hard + (1.0 - alpha) * tau * tau * kl_divergence(q, p);
    p1[label_of(batch, b)] -= 1.0;
    for (std::size_t c = 0; c < logits.size(); ++c) {
      grad[b][c] = alpha * p1[c] + (1.0 - alpha) * tau * (p[c] - q[c]);
    }
  }
  for (Row& row : grad) {
    for (double& value : row) value /= static_cast<double>(rows);
  }
  batch.grad = std::move(grad);
  return sum / static_cast<double>(rows);
}

}  // namespace

extern "C" {

Batch* document_batch_float32(const float* student, const float* teacher, const std::int64_t* labels,
                              std::size_t rows, std::size_t cols) {
  return make_batch(student, teacher, labels, rows, cols);
}

Batch* document_batch_float64(const double* student, const double* teacher, const std::int64_t* labels,
                              std::size_t rows, std::size_t cols) {
  return make_batch(student, teacher, labels, rows, cols);
}

void document_free(Batch* batch) { delete batch; }

double document_loss(const Batch* batch, double alpha, double tau) { return batch_loss(*batch, alpha, tau); }

double document_loss_and_grad(Batch* batch, double alpha, double tau) {
  return batch_loss_and_grad(*batch, alpha, tau);
}

// The gradient (rows, cols) of the latest call, row after row.
void document_copy_grad(const Batch* batch, double* grad) {
  for (const Row& row : batch->grad) grad = std::copy(row.begin(), row.end(), grad);
}

}  // extern "C"
