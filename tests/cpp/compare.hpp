// Runs a batch through every function of the loss, and compares each result with the true one.
#pragma once

#include <functional>

#include "batch.hpp"
#include "check.hpp"
#include "tolerances.hpp"

// The result of kd_loss_and_grad for each row alone.
template <class T>
struct Result {
  std::vector<T> loss, grad;
};
template <class T>
Result<T> run(const Batch<T>& batch, double alpha, int threads = 0) {
  const T unwritten(-7);
  Result<T> r{std::vector<T>(batch.labels.size(), unwritten),
              std::vector<T>(batch.student.size(), unwritten)};
  kdloss::Options options;
  options.alpha = alpha, options.tau = batch.tau, options.reduction = kdloss::Reduction::kNone;
  options.num_threads = threads;
  kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                              {r.grad.data(), batch.rows, batch.classes}, options, r.loss.data());
  return r;
}

template <class T>
class Comparison {
 public:
  // truth(i) is the true result of row i.
  void add(const Batch<T>& batch, const std::string& name, const std::function<Truth(std::int64_t)>& truth) {
    constexpr double kMixture = 0.3;
    const auto rows = static_cast<std::size_t>(batch.rows);
    std::vector<T> loss(rows), hard(rows), soft(rows);
    kdloss::Options options;
    options.tau = batch.tau, options.alpha = kMixture;
    kdloss::kd_loss_parts<T>(batch.student_view(), batch.teacher_view(), batch.label_view(), options,
                             loss.data(), hard.data(), soft.data());
    const Result<T> only_hard = run(batch, 1), only_soft = run(batch, 0), mixed = run(batch, kMixture);

    for (std::size_t i = 0; i < rows; ++i) {
      const Truth true_row = truth(static_cast<std::int64_t>(i));
      const Real hard_part = kMixture * true_row.hard, soft_part = (1 - Real(kMixture)) * true_row.soft;
      add_loss(hard_, hard[i], true_row.hard, name, i);
      add_loss(hard_, only_hard.loss[i], true_row.hard, name, i);
      add_loss(soft_, soft[i], true_row.soft, name, i);
      add_loss(soft_, only_soft.loss[i], true_row.soft, name, i);
      add_loss(mixture_, loss[i], hard_part + soft_part, name, i);
      add_loss(mixture_, mixed.loss[i], hard_part + soft_part, name, i);

      const Real most_hard = largest_magnitude(true_row.grad_hard),
                 most_soft = largest_magnitude(true_row.grad_soft);
      const Real most = std::max(kMixture * most_hard, (1 - Real(kMixture)) * most_soft);
      for (std::size_t c = 0; c < true_row.grad_hard.size(); ++c) {
        const std::size_t at = i * true_row.grad_hard.size() + c;
        const Real g_hard = true_row.grad_hard[c], g_soft = true_row.grad_soft[c];
        grad_hard_.add(relative_error<T>(only_hard.grad[at], g_hard, most_hard), name, " row ", i, " class ",
                       c);
        grad_soft_.add(relative_error<T>(only_soft.grad[at], g_soft, most_soft), name, " row ", i, " class ",
                       c);
        grad_mixture_.add(
            relative_error<T>(mixed.grad[at], kMixture * g_hard + (1 - Real(kMixture)) * g_soft, most), name,
            " row ", i, " class ", c);
      }
    }
  }
  void add(const Batch<T>& batch) {
    add(batch, check::text(batch.rows, " x ", batch.classes, " tau ", batch.tau),
        [&](std::int64_t i) { return batch.truth(i); });
  }
  ~Comparison() {
    for (const check::Worst* worst : {&hard_, &soft_, &mixture_, &grad_hard_, &grad_soft_, &grad_mixture_})
      CHECK_HOLDS(*worst);
  }

 private:
  static void add_loss(check::Worst& worst, T found, Real truth, const std::string& name, std::size_t i) {
    CHECK_AT(found >= 0, name, " row ", i);
    worst.add(relative_error<T>(found, truth, truth), name, " row ", i);
  }
  static constexpr double kPromise = tolerance::kPromise<T>;
  check::Worst hard_{"hard loss", kPromise}, soft_{"soft loss", kPromise}, mixture_{"loss", kPromise};
  check::Worst grad_hard_{"hard gradient", kPromise}, grad_soft_{"soft gradient", kPromise},
      grad_mixture_{"gradient", kPromise};
};
