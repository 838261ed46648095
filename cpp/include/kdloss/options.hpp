// What a caller may choose about the loss: how rows are reduced, which divergence, and every option.
#pragma once

#include <cstdint>

namespace kdloss {

// How far a student is from its teacher, as the soft loss measures it.
//
// With q the teacher's probabilities, p the student's, both at temperature tau, s and t their logits:
//
//     kKL         tau^2 KL(q || p)                    Hinton, Vinyals, Dean 2015
//     kReverseKL  tau^2 KL(p || q)                    Gu, Dong, Wei, Huang 2024 (MiniLLM)
//     kJS         tau^2 (beta KL(q || m) + (1 - beta) KL(p || m)),  m = beta q + (1 - beta) p
//                                                     Agarwal et al. 2024 (GKD)
//     kTV         tau^2 sum abs(p - q) / 2            Wen, Li, Du, Mou 2023 (f-distill)
//     kMSE        sum (s - t)^2 / classes             Ba, Caruana 2014
//
// and their gradients in s
//
//     kKL         tau (p - q)
//     kReverseKL  tau p (u - sum p u)                 u = log(p / q)
//     kJS         tau p (f - sum p f)                 f = (1 - beta) log(p / m)
//     kTV         tau p (f - sum p f)                 f = sign(p - q) / 2, 0 where they are equal
//     kMSE        2 (s - t) / classes
//
// kJS is scaled as in GKD: with beta = 1/2 it is at most tau^2 log 2. It vanishes as beta goes to 0 or 1;
// there it is its limit over beta, KL(q || p), or over 1 - beta, KL(p || q). kMSE does not centre the logits:
// it has no softmax and no temperature.
//
// Masked classes (-inf): by both, they count nothing. By the student alone, kKL and kMSE are +inf; by the
// teacher alone, kReverseKL and kMSE are. Beside an infinite loss the gradient is finite: kKL's as ever, the
// others' without that class.
//
// The diagonal of the Hessian is positive for kKL, p (1 - p), and for kMSE, 2 / classes. The others' can be
// negative: kd_loss_grad_hess refuses them.
enum class Divergence { kKL, kReverseKL, kJS, kTV, kMSE };

// kMean divides by the weight of the rows that count, which is their number where there are no weights; over
// no rows it is 0, with a zero gradient. kNone returns 0: ask for row_losses. The gradient is that of the
// reduced loss; with kNone, of each row's own.
enum class Reduction { kMean, kSum, kNone };

// kBound is twice the diagonal: by Gershgorin no eigenvalue of a row's Hessian is larger.
enum class Hessian { kExact, kBound };

// With g = class_weight (onehot(y) (1 - label_smoothing) + label_smoothing / classes), soft labels in the
// place of onehot(y), and W = sum g, the hard loss is sum g (-log p1), its gradient W p1 - g and its
// Hessian's diagonal W p1 (1 - p1).
struct Options {
  double alpha = 0.5;  // weight of the hard loss, in [0, 1]
  double tau = 4;      // temperature, > 0
  Reduction reduction = Reduction::kMean;
  // Padding: loss 0, gradient 0, not counted, whatever the row holds. Soft labels have no padding: with them,
  // any number but the default is refused.
  std::int64_t ignore_index = -100;
  int num_threads = 0;  // at most; 0: as OpenMP has it, or 1 where more would not pay

  // Absent where null.
  const double* alphas = nullptr;         // (rows,): each row's own, in the place of alpha
  const double* taus = nullptr;           // (rows,): the same for tau
  const double* sample_weight = nullptr;  // (rows,): finite, >= 0; a row of weight 0 is padding
  const double* class_weight = nullptr;   // (classes,): finite, >= 0
  double label_smoothing = 0;             // in [0, 1]
  double normalizer = 0;                  // > 0: divides in the place of the rows' weight, for kMean alone
  Hessian hessian = Hessian::kExact;
  Divergence divergence = Divergence::kKL;  // of the soft loss
  double beta = 0.5;                        // in [0, 1]: kJS's weight of the teacher
};

}  // namespace kdloss
