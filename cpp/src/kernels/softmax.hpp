// softmax, log-softmax and log-sum-exp of rows at a temperature.
//
//     Z = sum exp((x - m) / tau), m the largest      softmax = exp((x - m) / tau) / Z
//     log Z = log1p(ties - 1 + others)               log_softmax = (x - m) / tau - log Z
//                                                    log_sum_exp = m / tau + log Z
//
// ties counts the classes that equal m, and others is the sum over the rest: so log Z keeps its digits where
// it is close to 0.
#pragma once

#include "move/gather.hpp"
#include "move/staging.hpp"
#include "row/temperature.hpp"
#include "simd/layouts.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

constexpr std::int64_t kMostSoftmaxLaneClasses = 144;

// Writes the softmax of a row, or of the row in each lane, or its logarithm, to `to`, which may be x, or null
// to write nothing. With the logarithm it returns log-sum-exp.
template <bool log, class Layout, class T>
typename Layout::Number softmax(const Layout& layout, const T* x, const Temperature<T>& temperature,
                                double tau, T* scratch, T* to) {
  using L = Lanes<T>;
  using Number = typename Layout::Number;
  const L m = largest_of(layout, [&](std::int64_t i) KDLOSS_INLINE_LAMBDA { return load(x + i); });
  const L k(temperature.k), underflow_at(temperature.underflow_at);
  const auto sums = layout.template sums<log ? 2 : 1>([&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
    const L v = load(x + i), below = v - m, e = exp_any(below, k, underflow_at);
    store(scratch + i, log ? below : e);
    if constexpr (log) {
      const Mask<T> tie = v == m;
      return Some<L, 2>{where(tie, L(0), e), where(tie, L(1), L(0))};
    } else {
      return Some<L, 1>{e};
    }
  });
  Number log_z(0);
  L factor, shift(0);
  if constexpr (log) {
    log_z = log1p((sums.x[1] - Number(1)) + sums.x[0]);
    // An infinite m makes log_softmax NaN.
    factor = L(temperature.inverse), shift = layout.as_lanes(Number(0) - log_z) - (m - m);
  } else {
    factor = layout.as_lanes(Number(1) / sums.x[0]);
  }
  if (to != nullptr)
    layout.each([&](std::int64_t i)
                    KDLOSS_INLINE_LAMBDA { store(to + i, fma(load(scratch + i), factor, shift)); });
  const Number most = layout.as_number(m), exact_tau(tau);  // which may be 0 in the number's type
  return where(most == Number(0), Number(0), most / exact_tau) + log_z;
}

constexpr bool softmax_in_lanes(std::int64_t classes) { return classes <= kMostSoftmaxLaneClasses; }
template <class T>
void softmax_rows(const SoftmaxCall<T>& call, std::int64_t begin, std::int64_t end, T* scratch) {
  constexpr int n = Lanes<T>::kCount;
  const Temperature<T> temperature(call.tau);
  const std::int64_t classes = call.classes;
  const bool writes = call.grad.data != nullptr, lanes = softmax_in_lanes(classes);
  const auto compute = [&](const auto& layout, const T* x, T* to) {
    return call.log ? softmax<true>(layout, x, temperature, call.tau, scratch, to)
                    : softmax<false>(layout, x, temperature, call.tau, scratch, to);
  };
  const auto tile = [&](const Chunk<T>& chunk, std::int64_t i) {
    const int count = chunk.rows_of_tile(i);
    gather(chunk.student, i, count, classes, scratch);
    alignas(64) T number[n];
    store(number, compute(InLanes<T>{classes}, scratch, writes ? scratch : nullptr));
    if (writes) scatter(scratch, i, count, classes, chunk.grad);
    for (int j = 0; call.row_out != nullptr && j < count; ++j) call.row_out[chunk.first + i + j] = number[j];
  };
  const auto row = [&](const Chunk<T>& chunk, std::int64_t i) {
    const auto number =
        compute(InRow<T>{classes}, at(chunk.student, i), writes ? at(chunk.grad, i) : nullptr);
    if (call.row_out != nullptr) call.row_out[chunk.first + i] = static_cast<T>(first(number));
  };
  T* const copies = scratch + packed_stride<T>(classes) * (lanes ? n : 1);
  Staging<T>(call, lanes).for_chunks(begin, end, copies, [&](const Chunk<T>& chunk) {
    for (std::int64_t i = 0; i < chunk.count; i += lanes ? n : 1) lanes ? tile(chunk, i) : row(chunk, i);
  });
}

template <class T>
std::int64_t softmax_scratch(const SoftmaxCall<T>& call) {
  const bool lanes = softmax_in_lanes(call.classes);
  return packed_stride<T>(call.classes) * (lanes ? Lanes<T>::kCount : 1) + Staging<T>(call, lanes).size();
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
