// Arrays that lie anywhere: the same bits as from rows one after another, and nothing written beside the
// gradient.
#include <type_traits>

#include "compare.hpp"
#include "placed.hpp"

namespace {

const std::int64_t kClasses[] = {1, 3, 17, 144, 256, 257, 300};
// The last: rows packed 128, 32 and 16 at a time (or half as many), and one by one.
const std::int64_t kRows[] = {1, 5, 16, 33, 181};

}  // namespace

KD_CASE_EACH_TYPE(strides.any_layout) {
  for (std::int64_t classes : kClasses)
    for (std::int64_t rows : kRows) {
      const Batch<T> batch = random_batch<T>(rows, classes);
      const Result<T> expected = run(batch, 0.5);
      for (int i = 0; i < kLayouts; ++i)
        for (int j = 0; j < kLayouts; ++j) {
          const Placed<T> student(static_cast<Layout>(i), batch.student, rows, classes);
          const Placed<T> teacher(static_cast<Layout>((i + 3 * j) % kLayouts), batch.teacher, rows, classes);
          Placed<T> grad(static_cast<Layout>(j), std::vector<T>(batch.student.size(), T(7)), rows, classes);
          std::vector<T> loss(batch.labels.size());
          kdloss::Options options;
          options.reduction = kdloss::Reduction::kNone;
          kdloss::kd_loss_and_grad<T>(student.const_view(), teacher.const_view(), batch.label_view(),
                                      grad.view(), options, loss.data());
          const std::string where = check::text(rows, " x ", classes, " layouts ", i, " and ", j);
          CHECK_AT(check::same_bits(loss, expected.loss), where);
          CHECK_AT(check::same_bits(grad.values(), expected.grad), where);
          CHECK_AT(grad.filling_is_whole(), where);
        }
    }
}

KD_CASE_EACH_TYPE(strides.gradient_in_the_students_place) {
  for (std::int64_t classes : kClasses)
    for (std::int64_t rows : kRows)
      for (int i = 0; i < kLayouts; ++i)
        for (double alpha : {0.0, 0.5, 1.0}) {
          Batch<T> batch = random_batch<T>(rows, classes);
          if (rows > 1 && classes > 1) batch.s(1, 0) = batch.t(1, 0) = -std::numeric_limits<T>::infinity();
          const Result<T> expected = run(batch, alpha);
          Placed<T> student(static_cast<Layout>(i), batch.student, rows, classes);
          std::vector<T> loss(batch.labels.size());
          kdloss::Options options;
          options.alpha = alpha, options.reduction = kdloss::Reduction::kNone;
          kdloss::kd_loss_and_grad<T>(student.const_view(), batch.teacher_view(), batch.label_view(),
                                      student.view(), options, loss.data());
          const std::string where = check::text(rows, " x ", classes, " layout ", i, " alpha ", alpha);
          CHECK_AT(check::same_bits(loss, expected.loss), where);
          CHECK_AT(check::same_bits(student.values(), expected.grad), where);
          CHECK_AT(student.filling_is_whole(), where);
        }
}

// Columns too large for any cache are cut where cache lines begin, and written past the caches: with lines
// that begin at the same row in every column (a multiple of 16 rows) or do not, and rows left over or not.
KD_CASE_EACH_TYPE(strides.beyond_caches) {
  const std::int64_t classes = 250;
  for (std::int64_t rows : {4208, 4224, 4213}) {
    const Batch<T> batch = random_batch<T>(rows, classes);
    const Result<T> expected = run(batch, 0.5);
    for (Layout layout : {Layout::kColumns, Layout::kPaddedColumns, Layout::kColumnsBackwards})
      for (int threads : {1, 2, 3}) {
        const Placed<T> teacher(layout, batch.teacher, rows, classes);
        Placed<T> student(layout, batch.student, rows, classes);
        Placed<T> grad(layout, std::vector<T>(batch.student.size(), T(7)), rows, classes);
        kdloss::Options options;
        options.reduction = kdloss::Reduction::kNone, options.num_threads = threads;
        for (Placed<T>* out : {&grad, &student}) {
          std::vector<T> loss(batch.labels.size());
          kdloss::kd_loss_and_grad<T>(student.const_view(), teacher.const_view(), batch.label_view(),
                                      out->view(), options, loss.data());
          const std::string where =
              check::text(rows, " rows, layout ", static_cast<int>(layout), ", threads ", threads);
          CHECK_AT(check::same_bits(loss, expected.loss), where);
          CHECK_AT(check::same_bits(out->values(), expected.grad), where);
          CHECK_AT(out->filling_is_whole(), where);
        }
      }
  }
}

// Classes that lie whole pages apart are copied, 128 rows at a time.
KD_CASE_EACH_TYPE(strides.columns_in_pages) {
  for (std::int64_t classes : {24, 25, 256, 257})
    for (std::int64_t rows : {127, 128, 150, 300})
      for (double alpha : {0.0, 0.5, 1.0}) {
        Batch<T> batch = random_batch<T>(rows, classes);
        batch.s(1, 0) = batch.t(1, 0) = -std::numeric_limits<T>::infinity();
        const Result<T> expected = run(batch, alpha);
        for (int threads : {1, 3}) {
          const Placed<T> teacher(Layout::kColumnsInPages, batch.teacher, rows, classes);
          Placed<T> student(Layout::kColumnsInPages, batch.student, rows, classes);
          Placed<T> grad(Layout::kColumnsInPages, std::vector<T>(batch.student.size()), rows, classes);
          kdloss::Options options;
          options.alpha = alpha, options.reduction = kdloss::Reduction::kNone, options.num_threads = threads;
          std::vector<T> loss(batch.labels.size());
          const std::string where =
              check::text(rows, " x ", classes, " alpha ", alpha, ", threads ", threads);
          kdloss::kd_loss_batch<T>(student.const_view(), teacher.const_view(), batch.label_view(), options,
                                   loss.data());
          CHECK_AT(check::same_bits(loss, expected.loss), where);
          for (Placed<T>* out : {&grad, &student}) {
            kdloss::kd_loss_and_grad<T>(student.const_view(), teacher.const_view(), batch.label_view(),
                                        out->view(), options, loss.data());
            CHECK_AT(check::same_bits(loss, expected.loss), where);
            CHECK_AT(check::same_bits(out->values(), expected.grad), where);
            CHECK_AT(out->filling_is_whole(), where);
          }
        }
      }
}

// One row, or one class, for all: what broadcasting gives.
// The same beside a teacher of another type, whose rows are copied in another form.
KD_CASE_EACH_TYPE(strides.columns_in_pages_and_another_type) {
  using Other = std::conditional_t<sizeof(T) == sizeof(float), double, float>;
  for (std::int64_t classes : {25, 100, 256})
    for (std::int64_t rows : {100, 129, 145, 300}) {
      Batch<T> batch = random_batch<T>(rows, classes);
      std::vector<Other> other(batch.teacher.begin(), batch.teacher.end());
      batch.teacher.assign(other.begin(), other.end());  // of numbers that both types have
      const Result<T> expected = run(batch, 0.5);
      const Placed<T> student(Layout::kColumnsInPages, batch.student, rows, classes);
      Placed<T> grad(Layout::kColumnsInPages, std::vector<T>(batch.student.size()), rows, classes);
      for (Layout layout : {Layout::kRows, Layout::kColumns, Layout::kColumnsInPages}) {
        const Placed<Other> teacher(layout, other, rows, classes);
        kdloss::Options options;
        options.reduction = kdloss::Reduction::kNone;
        std::vector<T> loss(batch.labels.size());
        kdloss::kd_loss_and_grad<T>(student.const_view(), teacher.const_view(), batch.label_view(),
                                    grad.view(), options, loss.data());
        const std::string where = check::text(rows, " x ", classes, " layout ", static_cast<int>(layout));
        CHECK_AT(check::same_bits(loss, expected.loss), where);
        CHECK_AT(check::same_bits(grad.values(), expected.grad), where);
        CHECK_AT(grad.filling_is_whole(), where);
      }
    }
}

KD_CASE_EACH_TYPE(strides.zero) {
  for (std::int64_t classes : kClasses)
    for (std::int64_t rows : kRows) {
      Batch<T> batch = random_batch<T>(rows, classes);
      for (std::int64_t i = 1; i < rows; ++i)
        for (std::int64_t c = 0; c < classes; ++c) batch.t(i, c) = batch.t(0, c);
      const auto result_with = [&](kdloss::View<const T> teacher) {
        Result<T> r{std::vector<T>(batch.labels.size()), std::vector<T>(batch.student.size())};
        kdloss::kd_loss_and_grad<T>(batch.student_view(), teacher, batch.label_view(),
                                    {r.grad.data(), rows, classes}, {}, r.loss.data());
        return r;
      };
      const Result<T> copied = result_with(batch.teacher_view());
      const Result<T> one_row = result_with({batch.teacher.data(), rows, classes, 0, 1});
      CHECK_AT(check::same_bits(one_row.loss, copied.loss), rows, " x ", classes);
      CHECK_AT(check::same_bits(one_row.grad, copied.grad), rows, " x ", classes);

      const T one = batch.teacher[0];
      batch.teacher.assign(batch.teacher.size(), one);
      const Result<T> flat = result_with(batch.teacher_view()),
                      one_number = result_with({&one, rows, classes, 0, 0});
      CHECK_AT(check::same_bits(one_number.loss, flat.loss), rows, " x ", classes);
      CHECK_AT(check::same_bits(one_number.grad, flat.grad), rows, " x ", classes);
    }
}

KD_CASE_EACH_TYPE(strides.softmax) {
  for (std::int64_t classes : kClasses)
    for (std::int64_t rows : kRows) {
      const Batch<T> batch = random_batch<T>(rows, classes);
      std::vector<T> softmax(batch.student.size()), logs(softmax), sums(batch.labels.size());
      kdloss::softmax_temp<T>(batch.student_view(), 3, {softmax.data(), rows, classes});
      kdloss::log_softmax_temp<T>(batch.student_view(), 3, {logs.data(), rows, classes});
      kdloss::log_sum_exp<T>(batch.student_view(), 3, sums.data());
      for (int i = 0; i < kLayouts; ++i)
        for (int j = 0; j < kLayouts; ++j) {
          const std::string where = check::text(rows, " x ", classes, " layouts ", i, " and ", j);
          const Placed<T> logits(static_cast<Layout>(i), batch.student, rows, classes);
          Placed<T> out(static_cast<Layout>(j), std::vector<T>(softmax.size(), T(7)), rows, classes);
          kdloss::softmax_temp<T>(logits.const_view(), 3, out.view());
          CHECK_AT(check::same_bits(out.values(), softmax) && out.filling_is_whole(), where);
          kdloss::log_softmax_temp<T>(logits.const_view(), 3, out.view());
          CHECK_AT(check::same_bits(out.values(), logs) && out.filling_is_whole(), where);
          std::vector<T> found(sums.size());
          kdloss::log_sum_exp<T>(logits.const_view(), 3, found.data());
          CHECK_AT(check::same_bits(found, sums), where);
        }
      for (int i = 0; i < kLayouts; ++i) {
        const std::string where = check::text(rows, " x ", classes, " in place, layout ", i);
        Placed<T> own(static_cast<Layout>(i), batch.student, rows, classes);
        kdloss::softmax_temp<T>(own.const_view(), 3, own.view());
        CHECK_AT(check::same_bits(own.values(), softmax) && own.filling_is_whole(), where);
        Placed<T> own_logs(static_cast<Layout>(i), batch.student, rows, classes);
        kdloss::log_softmax_temp<T>(own_logs.const_view(), 3, own_logs.view());
        CHECK_AT(check::same_bits(own_logs.values(), logs) && own_logs.filling_is_whole(), where);
      }
    }
}
