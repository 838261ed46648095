// What is refused, in which words, and that nothing has been written by then.
#include <stdexcept>

#include "compare.hpp"

namespace {

using Invalid = std::invalid_argument;

template <class T>
struct Call {
  Batch<T> batch = random_batch<T>(3, 4);
  kdloss::View<const T> student = batch.student_view(), teacher = batch.teacher_view();
  kdloss::Labels labels = batch.label_view();
  kdloss::Options options;
  std::vector<T> grad_memory = std::vector<T>(12, T(9)), loss = std::vector<T>(3, T(9));
  kdloss::View<T> grad{grad_memory.data(), 3, 4};

  // The same words from every function of the loss.
  void is_refused(const std::string& message) {
    CHECK_THROWS(Invalid, message, kdloss::kd_loss_batch<T>(student, teacher, labels, options, loss.data()));
    CHECK_THROWS(Invalid, message, kdloss::kd_loss_parts<T>(student, teacher, labels, options, loss.data()));
    grad_is_refused(message);
  }
  void grad_is_refused(const std::string& message) {
    CHECK_THROWS(Invalid, message,
                 kdloss::kd_loss_and_grad<T>(student, teacher, labels, grad, options, loss.data()));
    CHECK(loss == std::vector<T>(3, T(9)));
    CHECK(grad_memory == std::vector<T>(12, T(9)));
  }
};

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kPositiveInfinity = std::numeric_limits<double>::infinity();

}  // namespace

KD_CASE_EACH_TYPE(errors.tau) {
  const std::pair<double, std::string> bad[] = {
      {0, "0"}, {-1.5, "-1.5"}, {kNan, "nan"}, {kPositiveInfinity, "inf"}, {-kPositiveInfinity, "-inf"}};
  for (const auto& [tau, words] : bad) {
    Call<T> call;
    call.options.tau = tau;
    const std::string message = "tau is " + words + ", expected a finite number > 0";
    call.is_refused(message);
    CHECK_THROWS(Invalid, message,
                 kdloss::kd_loss_single<T>(call.student.data, call.teacher.data, 4, 0, 0.5, tau));
    CHECK_THROWS(Invalid, message, kdloss::softmax_temp<T>(call.student, tau, call.grad));
    CHECK_THROWS(Invalid, message, kdloss::log_softmax_temp<T>(call.student, tau, call.grad));
    CHECK_THROWS(Invalid, message, kdloss::log_sum_exp<T>(call.student, tau, call.loss.data()));
    CHECK(call.grad_memory == std::vector<T>(12, T(9)) && call.loss == std::vector<T>(3, T(9)));
  }
}

KD_CASE_EACH_TYPE(errors.alpha) {
  const std::pair<double, std::string> bad[] = {
      {-0.25, "-0.25"}, {1.5, "1.5"}, {kNan, "nan"}, {kPositiveInfinity, "inf"}};
  for (const auto& [alpha, words] : bad) {
    Call<T> call;
    call.options.alpha = alpha;
    call.is_refused("alpha is " + words + ", expected a number in [0, 1]");
  }
}

KD_CASE_EACH_TYPE(errors.no_classes) {
  Call<T> call;
  call.student.classes = call.teacher.classes = call.grad.classes = 0;
  call.is_refused("student_logits has shape (3, 0), expected at least one class");
  CHECK_THROWS(Invalid, "logits has shape (3, 0), expected at least one class",
               kdloss::cross_entropy_hard<T>(call.student, call.labels));
  CHECK_THROWS(Invalid, "logits has shape (3, 0), expected at least one class",
               kdloss::softmax_temp<T>(call.student, 1, call.grad));
  CHECK_THROWS(Invalid, "logits has shape (3, 0), expected at least one class",
               kdloss::log_sum_exp<T>(call.student, 1, call.loss.data()));
  CHECK_THROWS(Invalid, "q has shape (3, 0), expected at least one class",
               kdloss::kl_divergence<T>(call.student, call.teacher));
}

KD_CASE_EACH_TYPE(errors.shapes) {
  const std::string expected = ", expected the shape of student_logits, (3, 4)";
  {
    Call<T> call;
    call.teacher.rows = 2;
    call.is_refused("teacher has shape (2, 4)" + expected);
  }
  {
    Call<T> call;
    call.teacher.classes = 5;
    call.is_refused("teacher has shape (3, 5)" + expected);
  }
  {
    Call<T> call;
    call.grad.classes = 3;
    call.grad_is_refused("grad has shape (3, 3)" + expected);
  }
  {
    Call<T> call;
    call.labels.count = 2;
    call.is_refused("labels has shape (2,), expected (3,), one label for each row of logits");
  }
  {
    Call<T> call;
    const std::string message = "out has shape (2, 4), expected the shape of logits, (3, 4)";
    call.grad.rows = 2;
    CHECK_THROWS(Invalid, message, kdloss::softmax_temp<T>(call.student, 1, call.grad));
    CHECK_THROWS(Invalid, message, kdloss::log_softmax_temp<T>(call.student, 1, call.grad));
    CHECK(call.grad_memory == std::vector<T>(12, T(9)));
  }
  {
    Call<T> call;
    call.teacher.rows = 1;
    CHECK_THROWS(Invalid, "p has shape (1, 4), expected the shape of q, (3, 4)",
                 kdloss::kl_divergence<T>(call.student, call.teacher));
  }
}

KD_CASE_EACH_TYPE(errors.absent) {
  {
    Call<T> call;
    call.labels = {};
    call.is_refused("labels is absent, expected one for each row where alpha is not 0");
  }
  {
    Call<T> call;
    call.teacher = {};
    call.is_refused("teacher is absent, expected logits where alpha is not 1");
  }
  {
    Call<T> call;
    call.grad.data = nullptr;
    call.grad_is_refused("grad is absent, expected an array of the student's shape");
  }
}

// Checked at any alpha; the first bad row is named.
KD_CASE_EACH_TYPE(errors.labels) {
  for (double alpha : {0.0, 0.5, 1.0})
    for (std::int64_t label : {std::int64_t(4), std::int64_t(-2), std::int64_t(-101), INT64_MAX, INT64_MIN}) {
      Call<T> call;
      call.options.alpha = alpha;
      call.batch.labels = {-100, label, 99};
      call.labels = call.batch.label_view();
      const std::string found = "labels[1] is " + std::to_string(label);
      call.is_refused(found +
                      ", expected a class in [0, 4), -1 (unlabelled) or ignore_index (-100, padding)");
      CHECK_THROWS(Invalid, found + ", expected a class in [0, 4) or ignore_index (-100, padding)",
                   kdloss::cross_entropy_hard<T>(call.student, call.labels));
      CHECK_THROWS(Invalid,
                   "label is " + std::to_string(label) +
                       ", expected a class in [0, 4), -1 (unlabelled) or ignore_index (-100, padding)",
                   kdloss::kd_loss_single<T>(call.student.data, call.teacher.data, 4, label));
    }
}

KD_CASE_EACH_TYPE(errors.unlabelled_without_teacher) {
  Call<T> call;
  call.options.alpha = 1;
  call.teacher = {};
  call.batch.labels = {0, 1, -1};
  call.labels = call.batch.label_view();
  const std::string message =
      "labels[2] is -1, expected a class in [0, 4) or ignore_index (-100, padding); without a teacher an "
      "unlabelled "
      "row has no loss";
  call.is_refused(message);
  CHECK_THROWS(Invalid, message, kdloss::cross_entropy_hard<T>(call.student, call.labels));
}

KD_CASE_EACH_TYPE(errors.not_probabilities) {
  const std::vector<T> good{T(0.25), T(0.75), T(0.5), T(0.5)};
  const auto refuses = [&](std::size_t at, T value, const std::string& what) {
    std::vector<T> bad = good, rows(2, T(9));
    bad[at] = value;
    for (bool in_q : {true, false}) {
      const std::string message = (in_q ? "q" : "p") + what;
      CHECK_THROWS(
          Invalid, message,
          kdloss::kl_divergence<T>({(in_q ? bad : good).data(), 2, 2}, {(in_q ? good : bad).data(), 2, 2},
                                   kdloss::Reduction::kMean, rows.data()));
      CHECK(rows == std::vector<T>(2, T(9)));
    }
  };
  refuses(3, T(-0.5), "[1, 1] is -0.5, expected probabilities, which are >= 0");
  refuses(2, T(0.75),
          "[1] sums to 1.25, expected probabilities, which sum to 1 (within 0.001); softmax_temp makes "
          "them from logits");
  refuses(0, static_cast<T>(kPositiveInfinity),
          "[0] sums to inf, expected probabilities, which sum to 1 (within 0.001); "
          "softmax_temp makes them from logits");
  // Just inside the tolerance.
  std::vector<T> close = good;
  close[0] += T(0.0009);
  CHECK((kdloss::kl_divergence<T>({close.data(), 2, 2}, {good.data(), 2, 2}) >= 0));
}
