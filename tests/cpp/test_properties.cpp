// Properties of the loss that hold for any input.
#include "compare.hpp"

namespace {

const std::int64_t kClasses[] = {1, 2, 10, 144, 256, 257, 1000};

template <class T>
T kl(const std::vector<T>& student, const std::vector<T>& teacher, double tau) {
  kdloss::Options options;
  options.alpha = 0, options.tau = tau;
  const auto classes = static_cast<std::int64_t>(student.size());
  T row = 0;
  kdloss::kd_loss_batch<T>({student.data(), 1, classes}, {teacher.data(), 1, classes}, {}, options, &row);
  return row;
}

}  // namespace

KD_CASE_EACH_TYPE(properties.soft_is_zero_only_for_equal_rows) {
  Random random(3);
  for (std::int64_t classes : kClasses) {
    std::vector<T> teacher(static_cast<std::size_t>(classes));
    for (T& x : teacher) x = static_cast<T>(random.uniform(1, 2));
    std::vector<T> student = teacher;
    CHECK_AT(kl(student, teacher, 3) == 0, classes, " classes");
    if (classes == 1) continue;  // one class has probability 1, whatever its logit
    for (std::size_t c : {std::size_t(0), student.size() / 2, student.size() - 1}) {
      student = teacher;
      student[c] = std::nextafter(student[c], T(3));  // the least that can be changed
      CHECK_AT(kl(student, teacher, 3) > 0, classes, " classes, class ", c);
    }
  }
}

// Not even where they differ in one class alone, whose probability is below the type's normal numbers.
KD_CASE_EACH_TYPE(properties.soft_is_zero_only_for_equal_tails) {
  Random random(5);
  const T deep = sizeof(T) == sizeof(float) ? T(-285) : T(-2160);
  for (std::int64_t classes : {2, 10, 256, 257, 1000, 3000}) {
    std::vector<T> teacher(static_cast<std::size_t>(classes));
    for (T& x : teacher) x = static_cast<T>(random.uniform(1, 2));
    std::vector<T> student = teacher;
    student.back() = teacher.back() = deep;
    CHECK_AT(kl(student, teacher, 3) == 0, classes, " classes");
    teacher.back() = deep - 3;
    CHECK_AT(kl(student, teacher, 3) > 0, classes, " classes");
  }
}

KD_CASE_EACH_TYPE(properties.gradient_rows_sum_to_zero) {
  check::Worst worst("row sum", tolerance::kRowSum<T>);
  for (std::int64_t classes : kClasses)
    for (double alpha : {0.0, 0.4, 1.0}) {
      const Batch<T> batch = random_batch<T>(40, classes);
      const Result<T> result = run(batch, alpha);
      for (std::int64_t i = 0; i < batch.rows; ++i) {
        Real sum = 0, largest = 0;
        for (Real g : batch.row(result.grad, i)) sum += g, largest = std::max(largest, std::fabs(g));
        worst.add(relative_error<T>(sum, 0, largest * static_cast<Real>(classes)), classes, " classes row ",
                  i, " alpha ", alpha);
      }
    }
  CHECK_HOLDS(worst);
}

// Logits and shifts that are multiples of 1/64, so that no digit is lost on the way in.
KD_CASE_EACH_TYPE(properties.shift_invariance) {
  for (std::int64_t classes : kClasses) {
    Random random(5);
    Batch<T> batch(20, classes);
    for (T& x : batch.student) x = static_cast<T>(random.below(1024)) / 64;
    for (std::size_t i = 0; i < batch.teacher.size(); ++i)
      batch.teacher[i] = batch.student[i] + static_cast<T>(random.below(64)) / 64;
    for (auto& label : batch.labels) label = random.below(classes);
    const Result<T> before = run(batch, 0.5);
    for (T& x : batch.student) x += 4096;
    for (T& x : batch.teacher) x -= 8192;
    const Result<T> after = run(batch, 0.5);
    CHECK_AT(check::same_bits(before.loss, after.loss), classes, " classes");
    CHECK_AT(check::same_bits(before.grad, after.grad), classes, " classes");
  }
}

KD_CASE_EACH_TYPE(properties.linear_in_alpha) {
  for (std::int64_t classes : kClasses) {
    const Batch<T> batch = random_batch<T>(20, classes);
    kdloss::Options options;
    const auto parts = [&](double alpha) {
      options.alpha = alpha;
      return kdloss::kd_loss_parts<T>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                                      options);
    };
    check::Worst worst("loss beside its parts", tolerance::kMean);
    const kdloss::Parts half = parts(0.5);
    for (double alpha : {0.0, 0.125, 0.7, 1.0}) {
      const kdloss::Parts p = parts(alpha);
      CHECK_AT(p.hard == half.hard, alpha);  // the parts are the same whatever alpha is
      CHECK_AT(p.soft == half.soft, alpha);
      const double expected = alpha * p.hard + (1 - alpha) * p.soft;
      worst.add(relative_error<double>(p.loss, expected, expected), classes, " classes alpha ", alpha);
    }
    CHECK_HOLDS(worst);
  }
}

KD_CASE(properties.finite_differences) {
  check::Worst worst("difference quotient", tolerance::kFiniteDifference);
  for (double alpha : {0.0, 0.3, 1.0})
    for (double tau : {1.0, 2.5, 6.0})
      for (std::int64_t classes : {2, 7, 150}) {
        Random random(11);
        Batch<double> batch(3, classes, tau);
        for (double& x : batch.student) x = random.normal();
        for (double& x : batch.teacher) x = random.normal();
        for (auto& label : batch.labels) label = random.below(classes);
        kdloss::Options options;
        options.alpha = alpha, options.tau = tau;
        std::vector<double> grad(batch.student.size());
        kdloss::kd_loss_and_grad<double>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                                         {grad.data(), batch.rows, classes}, options);
        const auto loss_at = [&](std::size_t i, double step) {
          Batch<double> moved = batch;
          moved.student[i] += step;
          return kdloss::kd_loss_batch<double>(moved.student_view(), moved.teacher_view(), moved.label_view(),
                                               options);
        };
        const double h = tolerance::kDifferenceStep;
        for (std::size_t i = 0; i < grad.size(); ++i)
          worst.add(std::fabs((loss_at(i, h) - loss_at(i, -h)) / (2 * h) - grad[i]), "alpha ", alpha, " tau ",
                    tau, " entry ", i);
      }
  CHECK_HOLDS(worst);
}

KD_CASE_EACH_TYPE(properties.reductions) {
  for (std::int64_t classes : kClasses) {
    const Batch<T> batch = random_batch<T>(35, classes);
    const auto rows = static_cast<double>(batch.rows);
    const Result<T> each = run(batch, 0.5);
    kdloss::Options options;
    std::vector<T> mean_grad(batch.student.size()), sum_grad(batch.student.size()), loss(batch.labels.size());
    const auto reduced = [&](kdloss::Reduction reduction, std::vector<T>& grad) {
      options.reduction = reduction;
      return kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                                         {grad.data(), batch.rows, classes}, options, loss.data());
    };
    const double mean = reduced(kdloss::Reduction::kMean, mean_grad);
    CHECK_AT(check::same_bits(loss, each.loss), classes, " classes");
    const double sum = reduced(kdloss::Reduction::kSum, sum_grad);
    CHECK_AT(check::same_bits(sum_grad, each.grad), classes, " classes");
    double total = 0;
    for (T x : each.loss) total += static_cast<double>(x);
    check::Worst losses("sum beside the rows' losses", tolerance::kRounded<T>);
    losses.add(relative_error<double>(sum, total, total), classes, " classes");
    CHECK_HOLDS(losses);
    check::Worst means("mean beside the sum", tolerance::kMean);
    means.add(relative_error<double>(mean, sum / rows, mean), classes, " classes");
    CHECK_HOLDS(means);

    check::Worst grads("gradient of the mean beside the rows' own", tolerance::kPromise<T>);
    for (std::int64_t i = 0; i < batch.rows; ++i) {
      const std::vector<Real> own = batch.row(each.grad, i), of_mean = batch.row(mean_grad, i);
      for (std::size_t c = 0; c < own.size(); ++c)
        grads.add(relative_error<T>(of_mean[c] * rows, own[c], largest_magnitude(own)), classes,
                  " classes row ", i);
    }
    CHECK_HOLDS(grads);

    loss.assign(loss.size(), -1);
    CHECK(reduced(kdloss::Reduction::kNone, sum_grad) == 0);
    CHECK_AT(check::same_bits(loss, each.loss), classes, " classes");
  }
}

KD_CASE_EACH_TYPE(properties.single_is_a_batch_of_one) {
  for (std::int64_t classes : kClasses) {
    Batch<T> batch = random_batch<T>(1, classes, 2.5);
    for (std::int64_t label : {batch.labels[0], kdloss::kUnlabelled}) {
      batch.labels[0] = label;
      kdloss::Options options;
      options.alpha = 0.3, options.tau = batch.tau;
      const double expected =
          kdloss::kd_loss_batch<T>(batch.student_view(), batch.teacher_view(), batch.label_view(), options);
      const double found = kdloss::kd_loss_single(batch.student.data(), batch.teacher.data(), classes, label,
                                                  options.alpha, options.tau);
      CHECK_AT(check::same_bits(found, expected), classes, " classes");
    }
  }
}

KD_CASE_EACH_TYPE(properties.cross_entropy_is_the_hard_part) {
  for (std::int64_t classes : kClasses) {
    const Batch<T> batch = random_batch<T>(20, classes);
    kdloss::Options options;
    options.alpha = 0.1, options.tau = 7;  // not used
    std::vector<T> found(batch.labels.size());
    const double mean =
        kdloss::cross_entropy_hard<T>(batch.student_view(), batch.label_view(), options, found.data());
    std::vector<T> expected(batch.labels.size());
    options.alpha = 1, options.tau = 1;
    CHECK(mean ==
          kdloss::kd_loss_batch<T>(batch.student_view(), {}, batch.label_view(), options, expected.data()));
    CHECK(check::same_bits(found, expected));
    check::Worst worst("hard loss", tolerance::kPromise<T>);
    for (std::int64_t i = 0; i < batch.rows; ++i) {
      const Real truth = batch.truth(i).hard;
      worst.add(relative_error<T>(found[static_cast<std::size_t>(i)], truth, truth), classes, " classes row ",
                i);
    }
    CHECK_HOLDS(worst);
  }
}
