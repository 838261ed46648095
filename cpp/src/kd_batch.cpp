// The loss of a batch: its checks, its rows spread over threads, its mean.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "checks.hpp"
#include "dispatch.hpp"
#include "kdloss/kdloss.hpp"
#include "row_ranges.hpp"
#include "sums.hpp"

namespace kdloss {
namespace {

// With fewer rows than this for each thread, and many classes, threads share each row's columns instead.
constexpr std::int64_t kRowsForThread = 4;
constexpr std::int64_t kManyClasses = 32768;

// What messages call the student's logits.
struct Student {
  const char* name = "student_logits";
  bool one_row = false;
};

template <class T>
Output output(const AnyView& student, const View<T>& v, const char* name) {
  check_same_shape("student_logits", student.rows, student.classes, name, v.rows, v.classes);
  check_present(name, v.data, v.rows, v.classes);
  return {v.data, kScalar<T>, v.row_stride, v.class_stride};
}

template <class T>
CountedRows check(const KdCall<T>& call, const Options& options, Student student) {
  if (student.one_row) check_classes(student.name, call.classes);
  check_matrix(student.name, call.student.data, call.rows, call.classes);
  const bool has_teacher = call.teacher.data != nullptr;
  if (has_teacher)
    check_same_shape(student.name, call.rows, call.classes, "teacher", call.teacher.rows,
                     call.teacher.classes);
  check_options(options, call.classes);
  return check_rows(call.student, call.labels, options, student.name, has_teacher, student.one_row);
}

// At beta 0 and 1 Jensen-Shannon is another divergence.
void replace_ends(Options& o) {
  if (o.divergence != Divergence::kJS) return;
  if (o.beta == 0) o.divergence = Divergence::kKL;
  if (o.beta == 1) o.divergence = Divergence::kReverseKL;
}

template <class T>
bool weights_fit(const double* class_weight, std::int64_t classes) {
  const double most = std::sqrt(static_cast<double>(std::numeric_limits<T>::max()));
  return class_weight == nullptr || std::all_of(class_weight, class_weight + classes, [=](double w) {
           return w == 0 || (w < most && w > 1 / most);
         });
}

// Refuses soft labels that are no probabilities: in the kernels, since there are as many of them as logits.
template <class T>
void check_probabilities(const KdCall<T>& call, const KernelsFor<T>& kernel, int threads) {
  std::atomic<std::int64_t> first{call.rows};
  const auto look = [&](std::int64_t begin, std::int64_t end, T* scratch) {
    const std::int64_t bad = kernel.bad_probabilities(call, begin, end, scratch);
    std::int64_t least = first.load();
    while (bad >= 0 && bad < least && !first.compare_exchange_weak(least, bad)) {
    }
  };
  for_row_ranges<T>(call.rows, call.classes, {}, kernel.kd_scratch(call), threads, look);
  if (first < call.rows) refuse_probabilities(call.labels.probabilities, first, call.teacher.data != nullptr);
}

// Runs a call whose arrays are set; the rest follows from the options.
template <class T>
Parts run(KdCall<T>& call, const Options& o, Student student = {}) {
  const CountedRows counted = check(call, o, student);
  const std::int64_t rows = call.rows, classes = call.classes;
  const double divisor = o.normalizer > 0 ? o.normalizer : counted.weight;  // of the mean
  const double scale = o.reduction == Reduction::kMean && divisor > 0 ? 1 / divisor : 1;
  static_cast<Options&>(call) = o;
  replace_ends(call);
  if (call.hess.data != nullptr) check_has_hessian(call.divergence);
  call.all_have_class = counted.all_have_class;
  call.weights_fit = weights_fit<T>(o.class_weight, classes);
  call.grad_scale = scale, call.hess_scale = o.hessian == Hessian::kBound ? 2 * scale : scale;

  const KernelsFor<T>& kernel = kernels().of<T>();
  int threads = threads_for(o.num_threads, rows * classes);
  if (call.labels.are_soft()) check_probabilities(call, kernel, threads);
  const std::int64_t rows_per_sum = kernel.rows_per_sum(classes);
  const std::int64_t sum_count = (rows + rows_per_sum - 1) / rows_per_sum;
  Scratch memory(sum_count, sizeof(RowSums), 1);
  call.sums = memory.piece<RowSums>(0);
  if (threads > 1 && rows < kRowsForThread * threads && classes >= kManyClasses) {
    call.split_columns = parallel_for;
    call.threads = threads;
    threads = 1;
  }
  RowAlignment alignment{rows_per_sum};
  if (call.student.class_stride != 1)
    alignment = packed_alignment(rows, threads, rows_per_sum == 1 ? rows_missing<T>(call.student) : 0);
  for_row_ranges<T>(
      rows, classes, alignment, kernel.kd_scratch(call), threads,
      [&](std::int64_t begin, std::int64_t end, T* scratch) { kernel.kd(call, begin, end, scratch); });

  if (o.reduction == Reduction::kNone) return {};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto total = [&](double RowSums::* x) {
    return sum_of(sum_count, [&](std::int64_t i) { return call.sums[i].*x; });
  };
  const double labelled = total(&RowSums::labelled);
  Parts parts{total(&RowSums::loss), labelled > 0 ? total(&RowSums::hard) : nan,
              call.teacher.data != nullptr ? total(&RowSums::soft) : nan};
  if (o.reduction == Reduction::kMean) {
    if (divisor > 0) parts.loss /= divisor, parts.soft /= divisor;
    parts.hard /= o.normalizer > 0 ? o.normalizer : labelled;
  }
  return parts;
}

// Whether a part may have weight 0 although its value is asked for. The gradient must not use its logits,
// which may be NaN.
template <class T>
bool has_unused_parts(const KdCall<T>& call, const Options& o) {
  const bool has_teacher = call.teacher.data != nullptr,
             has_labels = call.labels.are_indices() || call.labels.are_soft();
  const auto unused = [&](double alpha) { return (alpha == 0 && has_labels) || (alpha == 1 && has_teacher); };
  if (o.alphas == nullptr ? unused(o.alpha) : std::any_of(o.alphas, o.alphas + call.rows, unused))
    return true;
  return o.class_weight != nullptr && std::count(o.class_weight, o.class_weight + call.classes, 0.0) > 0;
}

// Halves are computed in float: they are widened as they are read.
template <class T>
KdCall<RowLoss<T>> call_on(const View<const T>& student, const AnyView& teacher, const Labels& labels,
                           RowLoss<T>* row_losses) {
  KdCall<RowLoss<T>> call;
  call.student = student, call.teacher = teacher, call.loss = row_losses;
  call.labels = labels, call.soft_labels = labels.probabilities;
  call.rows = student.rows, call.classes = student.classes;
  return call;
}

}  // namespace

template <class T>
double kd_loss_batch(View<const T> student, AnyView teacher, const Labels& labels, const Options& options,
                     RowLoss<T>* row_losses) {
  auto call = call_on(student, teacher, labels, row_losses);
  return run(call, options).loss;
}

template <class T>
double kd_loss_and_grad(View<const T> student, AnyView teacher, const Labels& labels, View<T> grad,
                        const Options& options, RowLoss<T>* row_losses) {
  auto call = call_on(student, teacher, labels, row_losses);
  call.grad = output(call.student, grad, "grad");
  return run(call, options).loss;
}

template <class T>
double kd_loss_grad_hess(View<const T> student, AnyView teacher, const Labels& labels, View<T> grad,
                         View<T> hess, const Options& options, RowLoss<T>* row_losses) {
  auto call = call_on(student, teacher, labels, row_losses);
  call.grad = output(call.student, grad, "grad");
  call.hess = output(call.student, hess, "hess");
  return run(call, options).loss;
}

template <class T>
Parts kd_loss_parts(View<const T> student, AnyView teacher, const Labels& labels, const Options& options,
                    RowLoss<T>* row_losses, RowLoss<T>* row_hard, RowLoss<T>* row_soft, View<T> grad) {
  auto call = call_on(student, teacher, labels, row_losses);
  if (grad.data != nullptr) call.grad = output(call.student, grad, "grad");
  call.both_parts = true, call.hard = row_hard, call.soft = row_soft;
  if (grad.data == nullptr || !has_unused_parts(call, options)) return run(call, options);
  call.grad = {};
  const Parts parts = run(call, options);
  kd_loss_and_grad(student, teacher, labels, grad, options);
  return parts;
}

template <class T>
double kd_loss_single(const T* student, const T* teacher, std::int64_t classes, std::int64_t label,
                      double alpha, double tau, Divergence divergence, double beta) {
  Options options;
  options.divergence = divergence, options.beta = beta;
  options.alpha = alpha, options.tau = tau, options.reduction = Reduction::kSum;
  auto call = call_on<T>(View<const T>(student, 1, classes), {}, Labels(&label, 1), nullptr);
  if (teacher != nullptr) call.teacher = View<const T>(teacher, 1, classes);
  return run(call, options, {"student", true}).loss;
}

template <class T>
double cross_entropy_hard(View<const T> logits, const Labels& labels, const Options& options,
                          RowLoss<T>* row_losses) {
  Options hard = options;
  hard.divergence = Divergence::kKL, hard.alpha = 1, hard.tau = 1, hard.alphas = nullptr, hard.taus = nullptr;
  auto call = call_on(logits, {}, labels, row_losses);
  return run(call, hard, {"logits", false}).loss;
}

#define KDLOSS_INSTANTIATE(T)                                                                                \
  template double kd_loss_batch(View<const T>, AnyView, const Labels&, const Options&, RowLoss<T>*);         \
  template double kd_loss_and_grad(View<const T>, AnyView, const Labels&, View<T>, const Options&,           \
                                   RowLoss<T>*);                                                             \
  template double kd_loss_grad_hess(View<const T>, AnyView, const Labels&, View<T>, View<T>, const Options&, \
                                    RowLoss<T>*);                                                            \
  template Parts kd_loss_parts(View<const T>, AnyView, const Labels&, const Options&, RowLoss<T>*,           \
                               RowLoss<T>*, RowLoss<T>*, View<T>);                                           \
  template double cross_entropy_hard(View<const T>, const Labels&, const Options&, RowLoss<T>*);
KDLOSS_INSTANTIATE(float)
KDLOSS_INSTANTIATE(double)
KDLOSS_INSTANTIATE(Float16)
KDLOSS_INSTANTIATE(BFloat16)
#undef KDLOSS_INSTANTIATE
template double kd_loss_single(const float*, const float*, std::int64_t, std::int64_t, double, double,
                               Divergence, double);
template double kd_loss_single(const double*, const double*, std::int64_t, std::int64_t, double, double,
                               Divergence, double);

}  // namespace kdloss
