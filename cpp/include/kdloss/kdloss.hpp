// kdloss: the knowledge-distillation loss, exact and fast, on plain arrays.
//
// For a row with student logits s, teacher logits t, label y, temperature tau > 0 and weight 0 <= alpha <= 1:
//
//     p1 = softmax(s)      p = softmax(s / tau)      q = softmax(t / tau)
//     hard = -log p1[y]
//     soft = tau^2 KL(q || p)                        the teacher first
//     loss = alpha hard + (1 - alpha) soft           averaged over the rows that count
//     grad = alpha (p1 - onehot(y)) + (1 - alpha) tau (p - q)
//     hess = alpha p1 (1 - p1) + (1 - alpha) p (1 - p)          the diagonal of the Hessian
//
// The promise: hard, soft, each part of the gradient and each entry of the Hessian are within 1e-5 (float) or
// 1e-12 (double) of their true values, relative (a gradient's entry to the largest of its row and part),
// whatever the number of classes, the shift or the scale, for 1e-3 <= tau <= 1e6; no loss is below zero.
// Each entry of softmax and log-softmax is within the same bounds of its true value, and log-sum-exp,
// relative to the larger of its two terms, max / tau and the rest. Below the type's smallest normal number an
// error is relative to that number. Results do not depend on the number of threads.
//
// Values: NaN in a row makes that row's results NaN and no other's. -inf is a masked class: probability 0; a
// student that masks a class which the teacher or the label wants has loss +inf, beside a finite gradient. A
// row that is all -inf or holds +inf gives NaN. A part of weight 0 counts 0, and its logits are not read.
//
// Errors: std::invalid_argument, before anything is written, with the argument's name, what was found and
// what was expected. T is float or double, and for the kd_loss functions Float16 or BFloat16 too, whose rows
// are widened to float as they are read. Every function may be called from several threads at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kdloss/options.hpp"
#include "kdloss/views.hpp"

#define KDLOSS_VERSION "0.1.0"

namespace kdloss {

// The type of row losses.
template <class T>
struct RowLossType {
  using Type = T;
};
template <>
struct RowLossType<Float16> {
  using Type = float;
};
template <>
struct RowLossType<BFloat16> {
  using Type = float;
};
template <class T>
using RowLoss = typename RowLossType<T>::Type;

// hard is the weighted mean over labelled rows (NaN without any), soft that over all rows that count (NaN
// without teacher); a normalizer divides both.
struct Parts {
  double loss = 0, hard = 0, soft = 0;
};

// The loss of the batch. teacher may be absent where alpha is 1, labels where it is 0. row_losses, if not
// null, receives every row's loss, times its weight (0 for padding).
template <class T>
double kd_loss_batch(View<const T> student_logits, AnyView teacher, const Labels& labels,
                     const Options& options = {}, RowLoss<T>* row_losses = nullptr);

// The same, and the gradient with respect to the student's logits, written to grad: any strides, but no
// overlap with itself or the inputs, except that it may be the student's own array.
template <class T>
double kd_loss_and_grad(View<const T> student_logits, AnyView teacher, const Labels& labels, View<T> grad,
                        const Options& options = {}, RowLoss<T>* row_losses = nullptr);

// The same, and the diagonal of each row's Hessian, weighted and divided as the gradient is. hess must not
// overlap anything.
template <class T>
double kd_loss_grad_hess(View<const T> student_logits, AnyView teacher, const Labels& labels, View<T> grad,
                         View<T> hess, const Options& options = {}, RowLoss<T>* row_losses = nullptr);

// The loss and both of its parts, whatever alpha is, for logs. A row pointer that is not null receives every
// row's value; hard is NaN there for unlabelled rows, and neither part has the row's weight. grad, if not
// absent, receives the gradient as in kd_loss_and_grad.
template <class T>
Parts kd_loss_parts(View<const T> student_logits, AnyView teacher, const Labels& labels,
                    const Options& options = {}, RowLoss<T>* row_losses = nullptr,
                    RowLoss<T>* row_hard = nullptr, RowLoss<T>* row_soft = nullptr, View<T> grad = {});

// One row. label may be kUnlabelled.
template <class T>
double kd_loss_single(const T* student, const T* teacher, std::int64_t classes, std::int64_t label,
                      double alpha = 0.5, double tau = 4, Divergence divergence = Divergence::kKL,
                      double beta = 0.5);

// The hard loss alone: -log softmax(logits)[label]. It has no teacher, so an unlabelled row is refused. alpha
// and tau are not used.
template <class T>
double cross_entropy_hard(View<const T> logits, const Labels& labels, const Options& options = {},
                          RowLoss<T>* row_losses = nullptr);

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
// The same of one row.
template <class T>
double kl_divergence_single(const T* q, const T* p, std::int64_t classes);

// What runs: "baseline", "x86-64-v3", "x86-64-v4" or "neon"; the environment variable KDLOSS_ISA forces one,
// and a name that the machine lacks throws std::runtime_error at the first call.
std::string active_isa();
std::vector<std::string> available_isas();
// The number of threads that a large call would use now.
int max_threads();

// How OpenMP's threads wait for more work. Those that spin for milliseconds keep the processors from what
// comes after a call, a matrix product on a BLAS's own threads for one, which then takes many times as long.
// So with kLong, which is how runtimes come, a call without num_threads uses one thread unless its work is
// tens of milliseconds. For kBrief set GOMP_SPINCOUNT=1000 (GCC's runtime) or KMP_BLOCKTIME=0 (LLVM's,
// Intel's), or for either OMP_WAIT_POLICY=passive, before the program starts. It is read at the first call;
// read_wait_policy reads it again. docs/threads.md tells more.
enum class WaitPolicy { kBrief, kLong };
WaitPolicy wait_policy();
void read_wait_policy();

}  // namespace kdloss
