// softmax, log-softmax and log-sum-exp of a batch of rows.
#include "blocks.hpp"
#include "checks.hpp"
#include "dispatch.hpp"
#include "kdloss/kdloss.hpp"

namespace kdloss {
namespace {

template <class T>
void run(typename KernelsFor<T>::Softmax KernelsFor<T>::* which, View<const T> logits, double tau,
         View<T> out, T* row_out, int num_threads) {
  check_tau(tau);
  check_matrix("logits", logits.data, logits.rows, logits.classes);
  if (which == &KernelsFor<T>::log_sum_exp) {
    check_present("out", row_out, logits.rows, 1);
  } else {
    check_same_shape("logits", logits.rows, logits.classes, "out", out.rows, out.classes);
    check_present("out", out.data, out.rows, out.classes);
  }
  SoftmaxCall<T> call;
  call.student = logits;
  call.grad = {out.data, kScalar<T>, out.row_stride, out.class_stride};
  call.row_out = row_out;
  call.rows = logits.rows;
  call.classes = logits.classes;
  call.tau = tau;
  const KernelsFor<T>& kernel = kernels().of<T>();
  const int threads = threads_for(num_threads, call.rows * call.classes);
  const bool strided = logits.class_stride != 1;
  for_row_blocks<T>(
      call.rows, call.classes, strided ? packed_groups(call.rows, threads, 0) : RowGroups{kFewRows},
      kernel.softmax_scratch(call), threads,
      [&](std::int64_t begin, std::int64_t end, T* scratch) { (kernel.*which)(call, begin, end, scratch); });
}

}  // namespace

template <class T>
void softmax_temp(View<const T> logits, double tau, View<T> out, int num_threads) {
  run<T>(&KernelsFor<T>::softmax, logits, tau, out, nullptr, num_threads);
}
template <class T>
void log_softmax_temp(View<const T> logits, double tau, View<T> out, int num_threads) {
  run<T>(&KernelsFor<T>::log_softmax, logits, tau, out, nullptr, num_threads);
}
template <class T>
void log_sum_exp(View<const T> logits, double tau, T* out, int num_threads) {
  run<T>(&KernelsFor<T>::log_sum_exp, logits, tau, View<T>(nullptr, 0, 0), out, num_threads);
}

#define KDLOSS_INSTANTIATE(T)                                          \
  template void softmax_temp(View<const T>, double, View<T>, int);     \
  template void log_softmax_temp(View<const T>, double, View<T>, int); \
  template void log_sum_exp(View<const T>, double, T*, int);
KDLOSS_INSTANTIATE(float)
KDLOSS_INSTANTIATE(double)
#undef KDLOSS_INSTANTIATE

}  // namespace kdloss
