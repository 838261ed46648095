// softmax, log-softmax and log-sum-exp of rows at a temperature.
//
//     Z = sum exp((x - m) / tau), m the largest      softmax = exp((x - m) / tau) / Z
//     log Z = log1p(ties - 1 + others)               log_softmax = (x - m) / tau - log Z
//                                                    log_sum_exp = m / tau + log Z
//
// ties counts the classes that equal m, and others is the sum over the rest: so log Z keeps its digits where
// it is close to 0.
#pragma once

#include "loss/formula.hpp"
#include "move/gather.hpp"
#include "move/staging.hpp"
#include "simd/layouts.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

constexpr std::int64_t kMostSoftmaxLaneClasses = 144;

enum class Want { kSoftmax, kLogSoftmax, kLogSumExp };

// Of a row, or of rows in the lanes: written to `to`, which may be x; or, for log_sum_exp, the result.
template <Want W, class Layout, class T>
typename Layout::Number softmax(const Layout& layout, const T* x, const Temperature<T>& tau, double exact_tau,
                                T* scratch, T* to) {
  using L = Lanes<T>;
  using Number = typename Layout::Number;
  constexpr bool log = W != Want::kSoftmax;
  const L m = largest_of(layout, [&](std::int64_t i) KDLOSS_INLINE_LAMBDA { return load(x + i); });
  const L k(tau.k), zero(tau.zero);
  const auto sums = layout.template sums<log ? 2 : 1>([&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
    const L v = load(x + i), below = v - m, e = exp_any(below, k, zero);
    if constexpr (W != Want::kLogSumExp) store(scratch + i, log ? below : e);
    if constexpr (log) {
      const Mask<T> tie = v == m;
      return Some<L, 2>{where(tie, L(0), e), where(tie, L(1), L(0))};
    } else {
      return Some<L, 1>{e};
    }
  });
  const auto log_z = [&] { return log1p((sums.x[log ? 1 : 0] - Number(1)) + sums.x[0]); };
  if constexpr (W == Want::kLogSumExp) {
    const Number most = layout.as_number(m), tau_number(exact_tau);  // which may be 0 in the number's type
    return where(most == Number(0), Number(0), most / tau_number) + log_z();
  } else {
    const L factor = log ? L(tau.inverse) : layout.as_lanes(Number(1) / sums.x[0]);
    // An infinite m makes log_softmax NaN.
    const L shift = log ? layout.as_lanes(Number(0) - log_z()) - (m - m) : L(0);
    layout.each([&](std::int64_t i)
                    KDLOSS_INLINE_LAMBDA { store(to + i, fma(load(scratch + i), factor, shift)); });
    return Number(0);
  }
}

constexpr bool softmax_in_lanes(std::int64_t classes) { return classes <= kMostSoftmaxLaneClasses; }
template <Want W, class T>
void softmax_rows(const SoftmaxCall<T>& call, std::int64_t begin, std::int64_t end, T* scratch) {
  constexpr int n = Lanes<T>::kCount;
  const Temperature<T> tau(call.tau);
  const std::int64_t classes = call.classes;
  const Staging<T> staging(call, softmax_in_lanes(classes));
  const auto by_lane = [&](const Chunk<T>& chunk) {
    for (std::int64_t i = 0; i < chunk.count; i += n) {
      const int count = static_cast<int>(chunk.count - i < n ? chunk.count - i : n);
      gather(chunk.student, i, count, classes, scratch);
      alignas(64) T number[n];
      store(number, softmax<W>(InLanes<T>{classes}, scratch, tau, call.tau, scratch, scratch));
      if constexpr (W != Want::kLogSumExp) scatter(scratch, i, count, classes, chunk.grad);
      for (int j = 0; W == Want::kLogSumExp && j < count; ++j) call.row_out[chunk.first + i + j] = number[j];
    }
  };
  const auto by_row = [&](const Chunk<T>& chunk) {
    for (std::int64_t i = 0; i < chunk.count; ++i) {
      T* const to = W == Want::kLogSumExp ? nullptr : at(chunk.grad, i);
      const auto number = softmax<W>(InRow<T>{classes}, at(chunk.student, i), tau, call.tau, scratch, to);
      if constexpr (W == Want::kLogSumExp) call.row_out[chunk.first + i] = static_cast<T>(first(number));
    }
  };
  T* const copies = scratch + block_stride<T>(classes) * (softmax_in_lanes(classes) ? n : 1);
  if (softmax_in_lanes(classes))
    staging.for_chunks(begin, end, copies, by_lane);
  else
    staging.for_chunks(begin, end, copies, by_row);
}

template <class T>
std::int64_t softmax_scratch(const SoftmaxCall<T>& call) {
  const bool lanes = softmax_in_lanes(call.classes);
  return block_stride<T>(call.classes) * (lanes ? Lanes<T>::kCount : 1) + Staging<T>(call, lanes).size();
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
