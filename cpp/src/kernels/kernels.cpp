// Every kernel, compiled once for each instruction set: KDLOSS_ISA names this one.
#include "loss/rows.hpp"
#include "probabilities.hpp"
#include "row/labels.hpp"
#include "softmax.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
constexpr KernelsFor<T> kernels_for() {
  return {kd<T>, kd_scratch<T>, rows_per_sum<T>, bad_probabilities<T>, softmax_rows<T>, softmax_scratch<T>};
}

}  // namespace

extern const Kernels kernels;
constexpr Kernels kernels = {kernels_for<float>(), kernels_for<double>(), are_classes};

}  // namespace kdloss::KDLOSS_ISA
