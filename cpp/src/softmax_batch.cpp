// softmax, log-softmax and log-sum-exp of a batch of rows.
#include "checks.hpp"
#include "dispatch.hpp"
#include "kdloss/kdloss.hpp"
#include "row_ranges.hpp"

namespace kdloss {
namespace {

// out and row_out may be absent.
template <class T>
void run(View<const T> logits, double tau, bool log, View<T> out, T* row_out, int num_threads) {
  SoftmaxCall<T> call;
  call.student = logits, call.rows = logits.rows, call.classes = logits.classes;
  call.grad = {out.data, kScalar<T>, out.row_stride, out.class_stride};
  call.tau = tau, call.log = log, call.row_out = row_out;
  const KernelsFor<T>& kernel = kernels().of<T>();
  const int threads = threads_for(num_threads, call.rows * call.classes);
  const bool strided = logits.class_stride != 1;
  for_row_ranges<T>(
      call.rows, call.classes, strided ? packed_alignment(call.rows, threads, 0) : RowAlignment{kFewRows},
      kernel.softmax_scratch(call), threads,
      [&](std::int64_t begin, std::int64_t end, T* scratch) { kernel.softmax(call, begin, end, scratch); });
}

template <class T>
void run_matrix(View<const T> logits, double tau, bool log, View<T> out, int num_threads) {
  check_tau(tau);
  check_matrix("logits", logits.data, logits.rows, logits.classes);
  check_same_shape("logits", logits.rows, logits.classes, "out", out.rows, out.classes);
  check_present("out", out.data, out.rows, out.classes);
  run<T>(logits, tau, log, out, nullptr, num_threads);
}

}  // namespace

template <class T>
void softmax_temp(View<const T> logits, double tau, View<T> out, int num_threads) {
  run_matrix(logits, tau, false, out, num_threads);
}
template <class T>
void log_softmax_temp(View<const T> logits, double tau, View<T> out, int num_threads) {
  run_matrix(logits, tau, true, out, num_threads);
}
template <class T>
void log_sum_exp(View<const T> logits, double tau, T* out, int num_threads) {
  check_tau(tau);
  check_matrix("logits", logits.data, logits.rows, logits.classes);
  check_present("out", out, logits.rows, 1);
  run<T>(logits, tau, true, {}, out, num_threads);
}

#define KDLOSS_INSTANTIATE(T)                                          \
  template void softmax_temp(View<const T>, double, View<T>, int);     \
  template void log_softmax_temp(View<const T>, double, View<T>, int); \
  template void log_sum_exp(View<const T>, double, T*, int);
KDLOSS_INSTANTIATE(float)
KDLOSS_INSTANTIATE(double)
#undef KDLOSS_INSTANTIATE

}  // namespace kdloss
