// The two labels that are not classes, and batches in which no row counts.
#include "compare.hpp"

namespace {

constexpr std::int64_t kPadding = -100;
const std::int64_t kClasses[] = {5, 300};  // rows in the lanes, and one row at a time
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
kdloss::View<T> view(std::vector<T>& grad, const Batch<T>& batch) {
  return {grad.data(), batch.rows, batch.classes};
}
template <class T>
bool all_zero(const std::vector<T>& x) {
  return check::same_bits(x, std::vector<T>(x.size(), T(0)));
}

}  // namespace

KD_CASE_EACH_TYPE(labels.unlabelled_rows_learn_from_the_teacher_alone) {
  for (std::int64_t classes : kClasses) {
    Batch<T> batch = random_batch<T>(35, classes);
    const Result<T> labelled = run(batch, 0.5), teacher_alone = run(batch, 0);
    for (std::size_t i = 0; i < batch.labels.size(); i += 2) batch.labels[i] = kdloss::kUnlabelled;
    const Result<T> found = run(batch, 0.5);
    for (std::int64_t i = 0; i < batch.rows; ++i) {
      const Result<T>& expected = i % 2 == 0 ? teacher_alone : labelled;
      const auto row = static_cast<std::size_t>(i);
      CHECK_AT(check::same_bits(found.loss[row], expected.loss[row]), "row ", i);
      CHECK_AT(batch.row(found.grad, i) == batch.row(expected.grad, i), "row ", i);
    }
  }
}

// At alpha 1 too, where a labelled row does not use its teacher.
KD_CASE_EACH_TYPE(labels.unlabelled_rows_learn_at_alpha_one) {
  for (std::int64_t classes : kClasses) {
    Batch<T> batch = random_batch<T>(20, classes);
    const Result<T> teacher_alone = run(batch, 0);
    batch.labels.assign(batch.labels.size(), kdloss::kUnlabelled);
    const Result<T> found = run(batch, 1);
    CHECK(check::same_bits(found.loss, teacher_alone.loss));
    CHECK(check::same_bits(found.grad, teacher_alone.grad));
  }
}

KD_CASE_EACH_TYPE(labels.padding_is_nothing_whatever_its_logits_hold) {
  for (std::int64_t classes : kClasses) {
    Batch<T> batch = random_batch<T>(35, classes);
    const Result<T> before = run(batch, 0.5);
    for (std::int64_t i = 0; i < batch.rows; i += 3) {
      batch.labels[static_cast<std::size_t>(i)] = kPadding;
      for (std::int64_t c = 0; c < classes; ++c) batch.s(i, c) = batch.t(i, c) = static_cast<T>(kNan);
    }
    const Result<T> found = run(batch, 0.5);
    for (std::int64_t i = 0; i < batch.rows; ++i) {
      const bool padding = i % 3 == 0;
      const auto row = static_cast<std::size_t>(i);
      CHECK_AT(check::same_bits(found.loss[row], padding ? T(0) : before.loss[row]), "row ", i);
      for (std::int64_t c = 0; c < classes; ++c) {
        const auto at = static_cast<std::size_t>(i * classes + c);
        CHECK_AT(check::same_bits(found.grad[at], padding ? T(0) : before.grad[at]), "row ", i, " class ", c);
      }
    }
  }
}

// Means are over the rows that count: all but padding; hard over those with a class.
KD_CASE_EACH_TYPE(labels.means) {
  for (std::int64_t classes : kClasses) {
    Batch<T> batch = random_batch<T>(40, classes);
    for (std::size_t i = 0; i < batch.labels.size(); ++i) {
      if (i % 4 == 0) batch.labels[i] = kPadding;
      if (i % 4 == 1) batch.labels[i] = kdloss::kUnlabelled;
    }
    std::vector<T> loss(batch.labels.size()), hard(loss), soft(loss), grad(batch.student.size());
    kdloss::Options options;
    options.alpha = 0.25;
    const kdloss::Parts parts =
        kdloss::kd_loss_parts<T>(batch.student_view(), batch.teacher_view(), batch.label_view(), options,
                                 loss.data(), hard.data(), soft.data());
    double losses = 0, hards = 0, softs = 0;
    for (std::size_t i = 0; i < loss.size(); ++i) {
      const bool padding = i % 4 == 0, unlabelled = i % 4 == 1;
      losses += static_cast<double>(loss[i]);
      softs += static_cast<double>(soft[i]);
      if (!padding && !unlabelled) hards += static_cast<double>(hard[i]);
      if (padding) CHECK_AT(loss[i] == 0 && hard[i] == 0 && soft[i] == 0, "row ", i);
      if (unlabelled) CHECK_AT(std::isnan(hard[i]) && loss[i] == soft[i], "row ", i);
    }
    check::Worst worst("means", tolerance::kRounded<T>);
    worst.add(relative_error<double>(parts.loss, losses / 30, losses / 30), "loss");
    worst.add(relative_error<double>(parts.hard, hards / 20, hards / 20), "hard");
    worst.add(relative_error<double>(parts.soft, softs / 30, softs / 30), "soft");
    CHECK_HOLDS(worst);
    const double mean = kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(),
                                                    batch.label_view(), view(grad, batch), options);
    CHECK(mean == parts.loss);
    const Result<T> own = run(batch, options.alpha);
    check::Worst gradient("gradient of the mean", tolerance::kPromise<T>);
    for (std::int64_t i = 0; i < batch.rows; ++i) {
      const std::vector<Real> expected = batch.row(own.grad, i), found = batch.row(grad, i);
      for (std::size_t c = 0; c < found.size(); ++c)
        gradient.add(relative_error<T>(found[c] * 30, expected[c], largest_magnitude(expected)), "row ", i);
    }
    CHECK_HOLDS(gradient);
  }
}

KD_CASE_EACH_TYPE(labels.ignore_index_wins_over_unlabelled) {
  for (std::int64_t classes : kClasses) {
    Batch<T> batch = random_batch<T>(4, classes);
    batch.labels = {0, -1, 2, -1};
    kdloss::Options options;
    options.ignore_index = -1;
    std::vector<T> loss(4);
    const double mean = kdloss::kd_loss_batch<T>(batch.student_view(), batch.teacher_view(),
                                                 batch.label_view(), options, loss.data());
    CHECK(loss[0] > 0 && loss[1] == 0 && loss[2] > 0 && loss[3] == 0);
    check::Worst worst("mean of two rows", tolerance::kRounded<T>);
    const double expected = (static_cast<double>(loss[0]) + static_cast<double>(loss[2])) / 2;
    worst.add(relative_error<double>(mean, expected, expected));
    CHECK_HOLDS(worst);
  }
}

KD_CASE_EACH_TYPE(labels.ignore_index_may_be_a_class) {
  for (std::int64_t classes : kClasses) {
    Batch<T> batch = random_batch<T>(3, classes);
    batch.labels = {0, 2, 1};
    kdloss::Options options;
    options.ignore_index = 2;
    std::vector<T> loss(3), grad(batch.student.size());
    kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                                view(grad, batch), options, loss.data());
    CHECK(loss[0] > 0 && loss[1] == 0 && loss[2] > 0);
    CHECK(largest_magnitude(batch.row(grad, 0)) > 0);
    CHECK(largest_magnitude(batch.row(grad, 1)) == 0);
  }
}

KD_CASE_EACH_TYPE(labels.all_padding) {
  for (std::int64_t classes : kClasses)
    for (kdloss::Reduction reduction :
         {kdloss::Reduction::kMean, kdloss::Reduction::kSum, kdloss::Reduction::kNone}) {
      Batch<T> batch = random_batch<T>(20, classes);
      batch.labels.assign(20, kPadding);
      batch.student.assign(batch.student.size(), static_cast<T>(kNan));
      kdloss::Options options;
      options.reduction = reduction;
      std::vector<T> loss(20, T(-1)), grad(batch.student.size(), T(-1));
      const double found =
          kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                                      view(grad, batch), options, loss.data());
      CHECK(found == 0);
      CHECK(all_zero(loss));
      CHECK(all_zero(grad));
      const kdloss::Parts parts =
          kdloss::kd_loss_parts<T>(batch.student_view(), batch.teacher_view(), batch.label_view(), options);
      CHECK(parts.loss == 0 && parts.soft == 0);
      CHECK(reduction == kdloss::Reduction::kNone ? parts.hard == 0 : std::isnan(parts.hard));
    }
}

// No rows at all, in vectors that have no memory to point to.
KD_CASE_EACH_TYPE(labels.empty_batch) {
  for (std::int64_t classes : kClasses)
    for (kdloss::Reduction reduction :
         {kdloss::Reduction::kMean, kdloss::Reduction::kSum, kdloss::Reduction::kNone}) {
      const Batch<T> batch(0, classes);
      std::vector<T> grad;
      kdloss::Options options;
      options.reduction = reduction;
      CHECK(kdloss::kd_loss_batch<T>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                                     options) == 0);
      CHECK(kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                                        view(grad, batch), options) == 0);
      CHECK(kdloss::cross_entropy_hard<T>(batch.student_view(), batch.label_view(), options) == 0);
      CHECK(kdloss::kl_divergence<T>(batch.student_view(), batch.teacher_view(), reduction) == 0);
      const kdloss::View<T> out(grad.data(), 0, classes);
      kdloss::softmax_temp<T>(batch.student_view(), 2, out);
      kdloss::log_softmax_temp<T>(batch.student_view(), 2, out);
      kdloss::log_sum_exp<T>(batch.student_view(), 2, grad.data());
    }
}

KD_CASE_EACH_TYPE(labels.may_be_absent_at_alpha_zero) {
  for (std::int64_t classes : kClasses) {
    const Batch<T> batch = random_batch<T>(20, classes);
    std::vector<T> loss(20), grad(batch.student.size());
    kdloss::Options options;
    options.alpha = 0, options.reduction = kdloss::Reduction::kSum;
    kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(), {}, view(grad, batch), options,
                                loss.data());
    const Result<T> expected = run(batch, 0);
    CHECK(check::same_bits(loss, expected.loss));
    CHECK(check::same_bits(grad, expected.grad));
    const kdloss::Parts parts =
        kdloss::kd_loss_parts<T>(batch.student_view(), batch.teacher_view(), {}, options);
    CHECK(std::isnan(parts.hard) && parts.soft == parts.loss);
  }
}

KD_CASE_EACH_TYPE(labels.teacher_may_be_absent_at_alpha_one) {
  for (std::int64_t classes : kClasses) {
    const Batch<T> batch = random_batch<T>(20, classes);
    std::vector<T> loss(20), grad(batch.student.size());
    kdloss::Options options;
    options.alpha = 1, options.reduction = kdloss::Reduction::kSum;
    kdloss::kd_loss_and_grad<T>(batch.student_view(), {}, batch.label_view(), view(grad, batch), options,
                                loss.data());
    const Result<T> expected = run(batch, 1);
    CHECK(check::same_bits(loss, expected.loss));
    CHECK(check::same_bits(grad, expected.grad));
    const kdloss::Parts parts =
        kdloss::kd_loss_parts<T>(batch.student_view(), {}, batch.label_view(), options);
    CHECK(std::isnan(parts.soft) && parts.hard == parts.loss);
  }
}

KD_CASE_EACH_TYPE(labels.any_stride) {
  for (std::int64_t classes : kClasses) {
    const Batch<T> batch = random_batch<T>(20, classes);
    const Result<T> expected = run(batch, 1);
    for (std::int64_t stride : {2, -1}) {
      std::vector<std::int64_t> spread(40, classes);  // between the labels are values that would be refused
      std::int64_t* first = &spread[stride < 0 ? 19 : 0];
      for (std::int64_t i = 0; i < 20; ++i) first[i * stride] = batch.labels[static_cast<std::size_t>(i)];
      kdloss::Options options;
      options.alpha = 1;
      std::vector<T> loss(20);
      kdloss::kd_loss_batch<T>(batch.student_view(), batch.teacher_view(), {first, 20, stride}, options,
                               loss.data());
      CHECK_AT(check::same_bits(loss, expected.loss), "stride ", stride);
    }
  }
}
