// The loss of a batch: its checks, its rows spread over threads, its mean.
#include <limits>
#include <stdexcept>
#include <vector>

#include "blocks.hpp"
#include "checks.hpp"
#include "dispatch.hpp"
#include "kdloss/kdloss.hpp"

namespace kdloss {
namespace {

// With fewer rows than this a thread, and columns enough, threads share each row's columns instead.
constexpr std::int64_t kFewRows = 4;
constexpr std::int64_t kManyClasses = 32768;

template <class T>
struct Request {
  View<const T> student, teacher;
  Labels labels;
  View<T> grad;
  Options options;
  bool both_parts = false;
  T *row_losses = nullptr, *row_hard = nullptr, *row_soft = nullptr;
  const char* student_name = "student_logits";  // as the caller knows it
  bool one_row = false;
};

void split_columns(std::int64_t count, Task task, void* context, int threads) {
  parallel_for(count, threads, [&](std::int64_t i, int) { task(context, i); });
}

template <class T>
Matrix<T> matrix(const View<T>& v) {
  return {v.data, v.row_stride, v.class_stride};
}

template <class T>
LabelCounts check(const Request<T>& r) {
  const Options& o = r.options;
  check_tau(o.tau);
  check_alpha(o.alpha);
  if (r.one_row)
    check_classes(r.student_name, r.student.classes);
  else
    check_classes(r.student_name, r.student.rows, r.student.classes);
  const bool has_teacher = r.teacher.data != nullptr;
  if (has_teacher)
    check_same_shape(r.student_name, r.student.rows, r.student.classes, "teacher", r.teacher.rows,
                     r.teacher.classes);
  if (r.grad.data != nullptr)
    check_same_shape(r.student_name, r.student.rows, r.student.classes, "out", r.grad.rows, r.grad.classes);
  const bool any_rows = r.student.rows > 0;  // an empty array may have no address
  if (any_rows && r.labels.data == nullptr && o.alpha != 0)
    throw std::invalid_argument("labels is absent, expected one for each row where alpha is not 0");
  if (any_rows && !has_teacher && o.alpha != 1)
    throw std::invalid_argument("teacher is absent, expected logits where alpha is not 1");
  return check_labels(r.labels, r.student.rows, r.student.classes, o.ignore_index, has_teacher, r.one_row);
}

template <class T>
Parts run(const Request<T>& r) {
  const LabelCounts counts = check(r);
  const Options& o = r.options;
  const std::int64_t rows = r.student.rows, classes = r.student.classes;
  const double counting = static_cast<double>(counts.counting);
  const double scale = o.reduction == Reduction::kMean && counts.counting > 0 ? 1 / counting : 1;

  KdCall<T> call;
  call.student = matrix(r.student);
  call.teacher = matrix(r.teacher);
  call.grad = matrix(r.grad);
  call.labels = r.labels.data;
  call.label_stride = r.labels.stride;
  call.rows = rows;
  call.classes = classes;
  call.ignore_index = o.ignore_index;
  call.alpha = o.alpha;
  call.tau = o.tau;
  call.grad_scale = scale;
  call.both_parts = r.both_parts;
  call.loss = r.row_losses;
  call.hard = r.row_hard;
  call.soft = r.row_soft;

  const KernelsFor<T>& kernel = kernels().of<T>();
  const std::int64_t rows_per_sum = kernel.rows_per_sum(classes);
  std::vector<KdSums> sums(static_cast<std::size_t>((rows + rows_per_sum - 1) / rows_per_sum));
  call.sums = sums.data();
  int threads = threads_for(o.num_threads, rows * classes);
  if (threads > 1 && rows < kFewRows * threads && classes >= kManyClasses) {
    call.split_columns = split_columns;
    call.threads = threads;
    threads = 1;
  }
  for_row_blocks<T>(
      rows, classes, r.student.class_stride != 1, kernel.kd_scratch(call), threads,
      [&](std::int64_t begin, std::int64_t end, T* scratch) { kernel.kd(call, begin, end, scratch); });

  KdSums total;
  for (const KdSums& s : sums) total.loss += s.loss, total.hard += s.hard, total.soft += s.soft;
  if (o.reduction == Reduction::kNone) return {};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Parts parts{total.loss, counts.labelled > 0 ? total.hard : nan,
              r.teacher.data != nullptr ? total.soft : nan};
  if (o.reduction == Reduction::kMean) {
    if (counts.counting > 0) parts.loss /= counting, parts.soft /= counting;
    if (counts.labelled > 0) parts.hard /= static_cast<double>(counts.labelled);
  }
  return parts;
}

}  // namespace

template <class T>
double kd_loss_batch(View<const T> student, View<const T> teacher, Labels labels, const Options& options,
                     T* row_losses) {
  Request<T> r;
  r.student = student, r.teacher = teacher, r.labels = labels, r.options = options, r.row_losses = row_losses;
  return run(r).loss;
}

template <class T>
double kd_loss_and_grad(View<const T> student, View<const T> teacher, Labels labels, View<T> grad,
                        const Options& options, T* row_losses) {
  if (grad.data == nullptr && grad.rows * grad.classes > 0)
    throw std::invalid_argument("grad is absent, expected an array of the student's shape");
  Request<T> r;
  r.student = student, r.teacher = teacher, r.labels = labels, r.options = options, r.row_losses = row_losses;
  r.grad = grad;
  return run(r).loss;
}

template <class T>
Parts kd_loss_parts(View<const T> student, View<const T> teacher, Labels labels, const Options& options,
                    T* row_losses, T* row_hard, T* row_soft) {
  Request<T> r;
  r.student = student, r.teacher = teacher, r.labels = labels, r.options = options, r.row_losses = row_losses;
  r.both_parts = true;
  r.row_hard = row_hard, r.row_soft = row_soft;
  return run(r);
}

template <class T>
double kd_loss_single(const T* student, const T* teacher, std::int64_t classes, std::int64_t label,
                      double alpha, double tau) {
  Options options;
  options.alpha = alpha, options.tau = tau, options.reduction = Reduction::kSum;
  Request<T> r;
  r.student = View<const T>(student, 1, classes), r.labels = Labels(&label, 1), r.options = options;
  if (teacher != nullptr) r.teacher = View<const T>(teacher, 1, classes);
  r.student_name = "student", r.one_row = true;
  return run(r).loss;
}

template <class T>
double cross_entropy_hard(View<const T> logits, Labels labels, const Options& options, T* row_losses) {
  Options hard = options;
  hard.alpha = 1, hard.tau = 1;
  Request<T> r;
  r.student = logits, r.labels = labels, r.options = hard, r.row_losses = row_losses;
  r.student_name = "logits";
  return run(r).loss;
}

#define KDLOSS_INSTANTIATE(T)                                                                          \
  template double kd_loss_batch(View<const T>, View<const T>, Labels, const Options&, T*);             \
  template double kd_loss_and_grad(View<const T>, View<const T>, Labels, View<T>, const Options&, T*); \
  template Parts kd_loss_parts(View<const T>, View<const T>, Labels, const Options&, T*, T*, T*);      \
  template double kd_loss_single(const T*, const T*, std::int64_t, std::int64_t, double, double);      \
  template double cross_entropy_hard(View<const T>, Labels, const Options&, T*);
KDLOSS_INSTANTIATE(float)
KDLOSS_INSTANTIATE(double)
#undef KDLOSS_INSTANTIATE

}  // namespace kdloss
