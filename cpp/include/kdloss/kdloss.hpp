// kdloss: the knowledge-distillation loss, exact and fast, on plain arrays.
//
// For a row with student logits s, teacher logits t, label y, temperature tau > 0 and weight 0 <= alpha <= 1:
//
//     p1 = softmax(s)      p = softmax(s / tau)      q = softmax(t / tau)
//     hard = -log p1[y]
//     soft = tau^2 KL(q || p)                        the teacher first
//     loss = alpha hard + (1 - alpha) soft           averaged over the rows that count
//     grad = alpha (p1 - onehot(y)) + (1 - alpha) tau (p - q)
//
// The promise: hard, soft and each part of the gradient are within 1e-5 (float) or 1e-12 (double) of their
// true values, relative (a gradient's entry to the largest of its row and part), whatever the number of
// classes, the shift or the scale, for 1e-3 <= tau <= 1e6; no loss is below zero. Results do not depend on
// the number of threads.
//
// Values: NaN in a row makes that row's results NaN and no other's. -inf is a masked class: probability 0; a
// student that masks a class which the teacher or the label wants has loss +inf, beside a finite gradient. A
// row that is all -inf or holds +inf gives NaN. A part of weight 0 counts 0, and its inputs are not read.
//
// Errors: std::invalid_argument, before anything is written, with the argument's name, what was found and
// what was expected. T is float or double everywhere. Every function may be called from several threads at
// once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#define KDLOSS_VERSION "0.1.0"

namespace kdloss {

// A matrix of logits, (rows, classes), that lies anywhere; strides count elements, and may be zero or
// negative.
template <class T>
struct View {
  T* data = nullptr;
  std::int64_t rows = 0, classes = 0;
  std::int64_t row_stride = 0, class_stride = 1;

  View() = default;
  // One row after another, without gaps.
  View(T* data_, std::int64_t rows_, std::int64_t classes_) : View(data_, rows_, classes_, classes_, 1) {}
  View(T* data_, std::int64_t rows_, std::int64_t classes_, std::int64_t row_stride_,
       std::int64_t class_stride_)
      : data(data_), rows(rows_), classes(classes_), row_stride(row_stride_), class_stride(class_stride_) {}
};

// Class indices, one a row: 0 <= label < classes; kUnlabelled, a row that learns from the teacher alone; or
// Options::ignore_index, padding. Absent (null) where alpha is 0.
struct Labels {
  const std::int64_t* data = nullptr;
  std::int64_t count = 0, stride = 1;

  Labels() = default;
  Labels(const std::int64_t* data_, std::int64_t count_, std::int64_t stride_ = 1)
      : data(data_), count(count_), stride(stride_) {}
};
constexpr std::int64_t kUnlabelled = -1;

// kMean divides by the number of rows that count (all but padding); over no rows it is 0, with a zero
// gradient. kNone returns 0: ask for row_losses. The gradient is that of the reduced loss; with kNone, of
// each row's own.
enum class Reduction { kMean, kSum, kNone };

struct Options {
  double alpha = 0.5;  // weight of the hard loss, in [0, 1]
  double tau = 4;      // temperature, > 0
  Reduction reduction = Reduction::kMean;
  std::int64_t ignore_index = -100;  // padding: loss 0, gradient 0, not counted, whatever the row holds
  int num_threads = 0;               // at most; 0: as OpenMP has it, or 1 where waking them would not pay
};

// hard is the mean over labelled rows (NaN without any), soft the mean over all rows that count (NaN without
// teacher).
struct Parts {
  double loss = 0, hard = 0, soft = 0;
};

// The loss of the batch. teacher may be absent where alpha is 1, labels where it is 0. row_losses, if not
// null, receives every row's loss (0 for padding).
template <class T>
double kd_loss_batch(View<const T> student_logits, View<const T> teacher, Labels labels,
                     const Options& options = {}, T* row_losses = nullptr);

// The same, and the gradient with respect to the student's logits, written to grad: any strides, but no
// overlap with itself or the inputs, except that it may be the student's own array.
template <class T>
double kd_loss_and_grad(View<const T> student_logits, View<const T> teacher, Labels labels, View<T> grad,
                        const Options& options = {}, T* row_losses = nullptr);

// The loss and both of its parts, whatever alpha is, for logs. A row pointer that is not null receives every
// row's value; hard is NaN there for unlabelled rows.
template <class T>
Parts kd_loss_parts(View<const T> student_logits, View<const T> teacher, Labels labels,
                    const Options& options = {}, T* row_losses = nullptr, T* row_hard = nullptr,
                    T* row_soft = nullptr);

// One row. label may be kUnlabelled.
template <class T>
double kd_loss_single(const T* student, const T* teacher, std::int64_t classes, std::int64_t label,
                      double alpha = 0.5, double tau = 4);

// The hard loss alone: -log softmax(logits)[label]. It has no teacher, so an unlabelled row is refused. alpha
// and tau are not used.
template <class T>
double cross_entropy_hard(View<const T> logits, Labels labels, const Options& options = {},
                          T* row_losses = nullptr);

// softmax(logits / tau) and its logarithm, row by row. out may be the logits' own array.
template <class T>
void softmax_temp(View<const T> logits, double tau, View<T> out, int num_threads = 0);
template <class T>
void log_softmax_temp(View<const T> logits, double tau, View<T> out, int num_threads = 0);

// log sum exp(logits / tau) of every row, to out (rows). A row of -inf gives -inf, one with +inf gives +inf.
template <class T>
void log_sum_exp(View<const T> logits, double tau, T* out, int num_threads = 0);

// KL(q || p) of rows of probabilities, as sum q log(q / p) - q + p, each term of which is >= 0; 0 log 0 = 0.
// Refuses a negative entry, and a row whose sum is further than 1e-3 from 1.
template <class T>
double kl_divergence(View<const T> q, View<const T> p, Reduction reduction = Reduction::kMean,
                     T* row_divergences = nullptr);

// What runs: "baseline", "x86-64-v3", "x86-64-v4" or "neon"; the environment variable KDLOSS_ISA forces one,
// and a name that the machine lacks throws std::runtime_error at the first call.
std::string active_isa();
std::vector<std::string> available_isas();
// The number of threads that a large call would use now.
int max_threads();

}  // namespace kdloss
