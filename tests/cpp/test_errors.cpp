// Bad input: the message of the error, and that nothing has been written.
#include <cmath>
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
  std::vector<T> hess_memory = grad_memory;
  kdloss::View<T> hess{hess_memory.data(), 3, 4};

  // Every function of the loss has the same message.
  void is_refused(const std::string& message) {
    CHECK_THROWS(Invalid, message, kdloss::kd_loss_batch<T>(student, teacher, labels, options, loss.data()));
    CHECK_THROWS(Invalid, message, kdloss::kd_loss_parts<T>(student, teacher, labels, options, loss.data()));
    grad_is_refused(message);
  }
  void grad_is_refused(const std::string& message) {
    CHECK_THROWS(Invalid, message,
                 kdloss::kd_loss_and_grad<T>(student, teacher, labels, grad, options, loss.data()));
    hess_is_refused(message);
  }
  void hess_is_refused(const std::string& message) {
    CHECK_THROWS(Invalid, message,
                 kdloss::kd_loss_grad_hess<T>(student, teacher, labels, grad, hess, options, loss.data()));
    CHECK(loss == std::vector<T>(3, T(9)));
    CHECK(grad_memory == std::vector<T>(12, T(9)));
    CHECK(hess_memory == std::vector<T>(12, T(9)));
  }
};

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
// Values that are not weights (>= 0), not shares (in [0, 1]), not temperatures (> 0).
struct Bad {
  double value;
  const char* words;
};
const Bad kNoWeights[] = {{-1, "-1"}, {-1e-300, "-1e-300"}, {std::nan(""), "nan"}, {HUGE_VAL, "inf"}};
const Bad kNoShares[] = {{-0.25, "-0.25"}, {1.5, "1.5"}, {std::nan(""), "nan"}, {HUGE_VAL, "inf"}};
const Bad kNoTaus[] = {{0, "0"}, {-1.5, "-1.5"}, {std::nan(""), "nan"}, {HUGE_VAL, "inf"}};

constexpr double kPositiveInfinity = std::numeric_limits<double>::infinity();

}  // namespace

KD_CASE_EACH_TYPE(errors.tau) {
  const std::pair<double, std::string> bad[] = {
      {0, "0"}, {-1.5, "-1.5"}, {kNan, "nan"}, {kPositiveInfinity, "inf"}, {-kPositiveInfinity, "-inf"}};
  for (const auto& [value, words] : bad) {
    const double tau = value;  // for lambdas, which cannot capture the other
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
  call.student.classes = call.teacher.classes = call.grad.classes = call.hess.classes = 0;
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
    call.hess.classes = 3;
    call.hess_is_refused("hess has shape (3, 3)" + expected);
  }
  {
    Call<T> call;
    const std::vector<T> one(12, T(0.25));
    call.labels = kdloss::Labels(kdloss::AnyView(one.data(), 2, 4));
    call.is_refused("labels has shape (2, 4), expected (3, 4), the shape of student_logits, or (3,)");
    call.labels = kdloss::Labels(kdloss::AnyView(one.data(), 3, 2));
    call.is_refused("labels has shape (3, 2), expected (3, 4), the shape of student_logits, or (3,)");
    CHECK_THROWS(Invalid, "labels has shape (3, 2), expected (3, 4), the shape of logits, or (3,)",
                 kdloss::cross_entropy_hard<T>(call.student, call.labels));
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
    call.grad_is_refused("grad is absent, expected an array of shape (3, 4)");
  }
  {
    Call<T> call;
    call.hess.data = nullptr;
    call.hess_is_refused("hess is absent, expected an array of shape (3, 4)");
  }
  {
    Call<T> call;  // wanted by one row alone
    const double alphas[] = {0, 0, 0.5}, others[] = {1, 0.75, 1};
    call.labels = {}, call.options.alphas = alphas;
    call.is_refused("labels is absent, expected one for each row where alpha is not 0");
    call.labels = call.batch.label_view(), call.teacher = {}, call.options.alphas = others;
    call.is_refused("teacher is absent, expected logits where alpha is not 1");
  }
}

// Null pointers, and a negative number of rows.
KD_CASE_EACH_TYPE(errors.no_arrays) {
  Call<T> call;
  const kdloss::View<const T> none(nullptr, 3, 4);
  const std::string absent = " is absent, expected an array of shape (3, 4)";
  call.student = none;
  call.is_refused("student_logits" + absent);
  CHECK_THROWS(Invalid, "student_logits has shape (-3, 4), expected no negative number of rows",
               kdloss::kd_loss_batch<T>({call.batch.student.data(), -3, 4}, {}, call.labels));
  CHECK_THROWS(Invalid, "student is absent, expected an array of shape (1, 4)",
               kdloss::kd_loss_single<T>(nullptr, call.teacher.data, 4, 0));
  CHECK_THROWS(Invalid, "logits" + absent, kdloss::cross_entropy_hard<T>(none, call.labels));
  CHECK_THROWS(Invalid, "logits" + absent, kdloss::softmax_temp<T>(none, 1, call.grad));
  CHECK_THROWS(Invalid, "out" + absent,
               kdloss::log_softmax_temp<T>(call.teacher, 1, kdloss::View<T>(nullptr, 3, 4)));
  CHECK_THROWS(Invalid, "out is absent, expected an array of shape (3, 1)",
               kdloss::log_sum_exp<T>(call.teacher, 1, nullptr));
  const std::vector<T> quarters(12, T(0.25));
  const kdloss::View<const T> q(quarters.data(), 3, 4);
  CHECK_THROWS(Invalid, "q" + absent, kdloss::kl_divergence<T>(none, q));
  CHECK_THROWS(Invalid, "p" + absent, kdloss::kl_divergence<T>(q, none));
}

// A writable view converts to a const one.
KD_CASE_EACH_TYPE(errors.a_writable_view_is_a_readable_one) {
  Call<T> call;
  const kdloss::View<T> student(call.batch.student.data(), 3, 4);
  CHECK(kdloss::kd_loss_batch<T>(student, call.teacher, call.labels) ==
        kdloss::kd_loss_batch<T>(call.student, call.teacher, call.labels));
}

// The sum of the weights is not checked if nothing is divided by it.
KD_CASE_EACH_TYPE(errors.weights_whose_sum_overflows) {
  Call<T> call;
  const double weights[] = {1e308, 1e308, 0};
  call.options.sample_weight = weights;
  call.is_refused("the sum of sample_weight is inf, expected one with a finite inverse");
  for (auto reduction : {kdloss::Reduction::kSum, kdloss::Reduction::kNone}) {
    call.options.reduction = reduction;
    CHECK(kdloss::kd_loss_batch<T>(call.student, call.teacher, call.labels, call.options) >= 0);
  }
  call.options.reduction = kdloss::Reduction::kMean, call.options.normalizer = 1e308;
  CHECK(kdloss::kd_loss_batch<T>(call.student, call.teacher, call.labels, call.options) >= 0);
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
                       ", expected a class in [0, 4), -1 (unlabelled) or -100 (padding)",
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

KD_CASE_EACH_TYPE(errors.no_probabilities_of_one_row) {
  const T good[] = {T(0.5), T(0.5)}, bad[] = {T(1.5), T(-0.5)}, large[] = {T(0.5), T(0.75)};
  CHECK_THROWS(Invalid, "q[1] is -0.5, expected probabilities, which are >= 0",
               kdloss::kl_divergence_single<T>(bad, good, 2));
  CHECK_THROWS(Invalid,
               "p sums to 1.25, expected probabilities, which sum to 1 (within 0.001); softmax_temp makes "
               "them from logits",
               kdloss::kl_divergence_single<T>(good, large, 2));
  CHECK_THROWS(Invalid, "q has shape (0,), expected at least one class",
               kdloss::kl_divergence_single<T>(good, good, 0));
  CHECK_THROWS(Invalid, "p is absent, expected an array of shape (1, 2)",
               kdloss::kl_divergence_single<T>(good, nullptr, 2));
}

KD_CASE_EACH_TYPE(errors.ignore_index_of_soft_labels) {
  const std::vector<T> soft{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};
  Call<T> call;
  call.labels = kdloss::Labels(kdloss::AnyView(soft.data(), 3, 4));
  call.options.ignore_index = -1;
  const std::string message =
      "ignore_index is -1 beside soft labels, which have no label of padding; give padding rows the "
      "sample_weight 0";
  call.is_refused(message);
  CHECK_THROWS(Invalid, message,
               kdloss::cross_entropy_hard<T>(call.student, call.labels, call.options, call.loss.data()));
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

// Of each row's own options the first bad one is named; a row that does not count is not looked at.
KD_CASE_EACH_TYPE(errors.alphas_and_taus) {
  for (const auto& [value, words] : kNoShares) {
    Call<T> call;
    const double alphas[] = {value, value, value}, weights[] = {0, 1, 1};
    call.options.alphas = alphas, call.options.sample_weight = weights;
    call.is_refused(check::text("alpha[1] is ", words, ", expected a number in [0, 1]"));
    call.options.sample_weight = nullptr;
    call.is_refused(check::text("alpha[0] is ", words, ", expected a number in [0, 1]"));
    call.batch.labels = {-100, -100, 0};
    call.is_refused(check::text("alpha[2] is ", words, ", expected a number in [0, 1]"));
  }
  for (const auto& [value, words] : kNoTaus) {
    Call<T> call;
    const double taus[] = {1, value, value}, weights[] = {1, 0, 1};
    call.options.taus = taus;
    call.is_refused(check::text("tau[1] is ", words, ", expected a finite number > 0"));
    call.options.sample_weight = weights;
    call.is_refused(check::text("tau[2] is ", words, ", expected a finite number > 0"));
    call.options.alpha = 1;  // not used, and refused all the same
    call.is_refused(check::text("tau[2] is ", words, ", expected a finite number > 0"));
  }
}

KD_CASE_EACH_TYPE(errors.weights) {
  for (const auto& [value, words] : kNoWeights) {
    Call<T> call;
    const double bad[] = {0, 1, value, value};
    const std::string rest = check::text(" is ", words, ", expected a finite number >= 0");
    call.options.sample_weight = bad;
    call.is_refused("sample_weight[2]" + rest);
    CHECK_THROWS(Invalid, "sample_weight[2]" + rest,
                 kdloss::cross_entropy_hard<T>(call.student, call.labels, call.options));
    call.options.sample_weight = nullptr, call.options.class_weight = bad;
    call.is_refused("class_weight[2]" + rest);
    CHECK_THROWS(Invalid, "class_weight[2]" + rest,
                 kdloss::cross_entropy_hard<T>(call.student, call.labels, call.options));
  }
}

KD_CASE_EACH_TYPE(errors.label_smoothing) {
  for (const auto& [value, words] : kNoShares) {
    Call<T> call;
    call.options.label_smoothing = value;
    const std::string message = check::text("label_smoothing is ", words, ", expected a number in [0, 1]");
    call.is_refused(message);
    CHECK_THROWS(Invalid, message, kdloss::cross_entropy_hard<T>(call.student, call.labels, call.options));
  }
}

KD_CASE_EACH_TYPE(errors.normalizer) {
  for (const auto& [value, words] :
       {Bad{-2, "-2"}, {std::nan(""), "nan"}, {HUGE_VAL, "inf"}, {1e-310, "1e-310"}})
    for (kdloss::Reduction reduction : {kdloss::Reduction::kMean, kdloss::Reduction::kSum}) {
      Call<T> call;
      call.options.normalizer = value, call.options.reduction = reduction;
      call.is_refused(
          check::text("normalizer is ", words, ", expected a finite number > 0 with a finite inverse"));
    }
  Call<T> call;
  call.options.normalizer = 2, call.options.reduction = kdloss::Reduction::kSum;
  call.is_refused("normalizer is given with reduction 'sum', expected it with 'mean' alone");
  call.options.reduction = kdloss::Reduction::kNone;
  call.is_refused("normalizer is given with reduction 'none', expected it with 'mean' alone");
}

// Whatever their type and alpha; the first bad row that counts is named, in a small batch and in a large one.
KD_CASE_EACH_TYPE(errors.soft_labels) {
  const std::string sum_expected =
      ", expected probabilities that sum to 1 within 0.001 (or all zeros: unlabelled)";
  const std::vector<T> good{T(0.5), T(0.5), 0, 0, 0, 0, 0, 0, 0, T(0.25), 0, T(0.75)};
  struct Change {
    std::size_t at;
    T value;
    std::string message;
  };
  const Change changes[] = {{1, T(0.375), "labels[0] sums to 0.875" + sum_expected},
                            {9, T(0.5), "labels[2] sums to 1.25" + sum_expected},
                            {6, T(0.125), "labels[1] sums to 0.125" + sum_expected},
                            {6, T(-0.125), "labels[1, 2] is -0.125, expected a probability >= 0"},
                            {11, T(-1), "labels[2, 3] is -1, expected a probability >= 0"},
                            {8, static_cast<T>(kNan), "labels[2] sums to nan" + sum_expected},
                            {4, static_cast<T>(HUGE_VAL), "labels[1] sums to inf" + sum_expected}};
  for (const Change& change : changes)
    for (double alpha : {0.0, 0.5, 1.0}) {
      std::vector<T> bad = good;
      bad[change.at] = change.value;
      Call<T> call;
      call.options.alpha = alpha;
      call.labels = kdloss::Labels(kdloss::AnyView(bad.data(), 3, 4));
      call.is_refused(change.message);
      double weights[] = {1, 1, 1};
      weights[change.at / 4] = 0;  // padding
      call.options.sample_weight = weights;
      CHECK(kdloss::kd_loss_batch<T>(call.student, call.teacher, call.labels, call.options) >= 0);
    }
  for (double missing : {0.0009, -0.0009, 0.0011, -0.0011}) {
    std::vector<T> close = good;
    close[0] = static_cast<T>(static_cast<double>(close[0]) - missing);
    const kdloss::Labels labels{kdloss::AnyView(close.data(), 3, 4)};
    const Call<T> call;
    const bool refused = check::message_of<Invalid>([&] {
                           kdloss::kd_loss_batch<T>(call.student, call.teacher, labels);
                         }) != "no exception";
    CHECK_AT(refused == (std::fabs(missing) > 0.001), missing);
  }
  for (std::int64_t classes : {10, 500}) {
    const Batch<T> batch = random_batch<T>(5000, classes);
    std::vector<T> one_hot(batch.student.size()), grad(one_hot.size(), T(9));
    for (std::size_t i = 0; i < 5000; ++i) one_hot[i * static_cast<std::size_t>(classes)] = 1;
    for (std::size_t row : {4999, 3001, 777}) {
      one_hot[row * static_cast<std::size_t>(classes) + 1] = T(0.5);
      for (int threads : {1, 2, 5}) {
        kdloss::Options options;
        options.num_threads = threads;
        CHECK_THROWS(
            Invalid, check::text("labels[", row, "] sums to 1.5", sum_expected),
            kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(),
                                        kdloss::Labels(kdloss::AnyView(one_hot.data(), 5000, classes)),
                                        {grad.data(), 5000, classes}, options));
      }
    }
    CHECK(grad == std::vector<T>(grad.size(), T(9)));
  }
}

// In any column, at any remainder: below zero in a row that sums to 1, and a sum at the edge of what passes.
KD_CASE_EACH_TYPE(errors.soft_labels_of_many_classes) {
  for (std::int64_t classes : {3, 17, 256, 257, 240, 1025, 2100}) {
    const Batch<T> batch = random_batch<T>(20, classes);
    const std::int64_t row = 18;
    std::vector<T> p(batch.student.size());
    for (std::int64_t i = 0; i < 20; ++i) p[static_cast<std::size_t>(i * classes)] = 1;
    const auto message = [&](kdloss::Options options) {
      return check::message_of<Invalid>([&] {
        kdloss::kd_loss_batch<T>(batch.student_view(), batch.teacher_view(),
                                 kdloss::Labels(kdloss::AnyView(p.data(), 20, classes)), options);
      });
    };
    T* const first = p.data() + row * classes;
    for (std::int64_t c : {classes - 1, classes / 2, std::int64_t(1)}) {
      first[0] = T(1.5), first[c] = T(-0.5);
      CHECK_AT(message({}) == check::text("labels[", row, ", ", c, "] is -0.5, expected a probability >= 0"),
               classes, " classes");
      std::vector<double> weights(20, 1.0);
      weights[static_cast<std::size_t>(row)] = 0;
      kdloss::Options without;
      without.sample_weight = weights.data();
      CHECK_AT(message(without) == "no exception", classes, " classes");
      first[0] = T(1), first[c] = 0;
      for (double excess : {0.00095, 0.00105}) {
        first[c] = static_cast<T>(excess);
        CHECK_AT((message({}) == "no exception") == (excess < 0.001), classes, " classes, excess ", excess);
      }
      first[c] = 0;
    }
  }
}

// The messages for half types, and for rows with strides.
KD_CASE(errors.soft_labels_of_halves) {
  const std::string message = "labels[1, 0] is -0.5, expected a probability >= 0";
  const Call<float> call;
  const auto refused = [&](auto half, std::uint16_t one, std::uint16_t minus_half, std::int64_t stride) {
    using Half = decltype(half);
    Half p[24] = {};
    for (std::int64_t row = 0; row < 3; ++row) p[row * 4 * stride].bits = row == 1 ? minus_half : one;
    CHECK_THROWS(Invalid, message,
                 kdloss::kd_loss_batch<float>(call.student, call.teacher,
                                              kdloss::Labels(kdloss::AnyView(p, 3, 4, 4 * stride, stride))));
  };
  for (std::int64_t stride : {1, 2}) {
    refused(kdloss::Float16{}, 0x3c00, 0xb800, stride);
    refused(kdloss::BFloat16{}, 0x3f80, 0xbf00, stride);
  }
}

KD_CASE_EACH_TYPE(errors.labels_of_32_bits) {
  Call<T> call;
  const std::int32_t bad[] = {0, 4, -2}, no_class[] = {-1, 1, 5};
  const std::string expected =
      ", expected a class in [0, 4), -1 (unlabelled) or ignore_index (-100, padding)";
  call.labels = kdloss::Labels(bad, 3);
  call.is_refused("labels[1] is 4" + expected);
  call.labels = kdloss::Labels(no_class, 3);
  call.is_refused("labels[2] is 5" + expected);
  CHECK_THROWS(
      Invalid,
      "labels[0] is -1, expected a class in [0, 4) or ignore_index (-100, padding); without a teacher "
      "an unlabelled row has no loss",
      kdloss::cross_entropy_hard<T>(call.student, call.labels));
}
