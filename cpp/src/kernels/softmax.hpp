// softmax, log-softmax and log-sum-exp of rows at a temperature.
//
//     Z = sum exp((x - m) / tau), m the largest      softmax = exp((x - m) / tau) / Z
//     log Z = log1p(ties - 1 + others)               log_softmax = (x - m) / tau - log Z
//                                                    log_sum_exp = m / tau + log Z
//
// ties counts the classes that equal m, and others is the sum over the rest: so log Z keeps its digits where
// it is close to 0.
#pragma once

#include "columns.hpp"
#include "kd_formula.hpp"
#include "lane_rows.hpp"
#include "staging.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

constexpr std::int64_t kMostSoftmaxLaneClasses = 144;

enum class Want { kSoftmax, kLogSoftmax, kLogSumExp };

// For softmax the sum itself; for the logarithms ties - 1 + others, which is Z - 1.
template <Want W, class T>
KDLOSS_INLINE Lanes<T> counted(Lanes<T> e, Lanes<T> x, Lanes<T> m) {
  return W == Want::kSoftmax ? e : where(x == m, Lanes<T>(0), e);
}

// log_sum_exp and log_softmax need log Z; an infinite m makes log_softmax NaN.
template <class T>
KDLOSS_INLINE Lanes<T> log_z(Lanes<T> others, Lanes<T> ties) {
  return log1p((ties - Lanes<T>(1)) + others);
}

template <Want W, class T>
void softmax_row(const T* x, std::int64_t classes, const Temperature<T>& tau, double exact_tau, T* scratch,
                 T* out, T* row_out) {
  using L = Lanes<T>;
  using D = Lanes<double>;
  const Span all{0, classes};
  L largest_lanes(-infinity<T>());
  for_columns<T>(all, [&](std::int64_t c, std::int64_t)
                          KDLOSS_INLINE_LAMBDA { largest_lanes = max(load(x + c), largest_lanes); });
  const T largest_x = largest(largest_lanes);
  const L m(largest_x), k(tau.k), zero(tau.zero);

  double others = 0, ties = 0;
  for_blocks(classes, [&](Span block) KDLOSS_INLINE_LAMBDA {
    L run(T(0)), sum_ties(T(0));
    Total<L> sum_e;
    for_columns<T>(block, [&](std::int64_t c, std::int64_t fresh) KDLOSS_INLINE_LAMBDA {
      const L v = load(x + c), e = exp_any(v - m, k, zero);
      if constexpr (W != Want::kLogSumExp) store(scratch + c, W == Want::kSoftmax ? e : v - m);
      L add = counted<W>(e, v, m), tie = where(v == m, L(1), L(0));
      if (fresh != c) add = only_fresh(add, fresh - c), tie = only_fresh(tie, fresh - c);
      if (run_ends((fresh - block.begin) / L::kCount)) sum_e.add(run), run = L(0);
      run = run + add;
      sum_ties = sum_ties + tie;
    });
    others += sum(sum_e.with(run));
    ties += sum(sum_ties);
  });

  const double log_sum = first(log_z(D(others), D(ties)));
  if constexpr (W == Want::kLogSumExp) {
    *row_out = static_cast<T>(static_cast<double>(largest_x) / exact_tau + log_sum);
  } else {
    const bool log = W == Want::kLogSoftmax;
    const double nan_of_infinity = static_cast<double>(largest_x) - static_cast<double>(largest_x);
    const L factor(log ? tau.inverse : static_cast<T>(1 / others));
    const L shift(log ? static_cast<T>(-log_sum - nan_of_infinity) : T(0));
    // From the scratch row, since out may be x, whose last columns are read twice.
    for_columns<T>(all, [&](std::int64_t c, std::int64_t)
                            KDLOSS_INLINE_LAMBDA { store(out + c, fma(load(scratch + c), factor, shift)); });
  }
}

template <Want W, class T>
Lanes<T> softmax_tile(T* tile, std::int64_t classes, const Temperature<T>& tau) {
  using L = Lanes<T>;
  constexpr int n = L::kCount;
  L m(-infinity<T>());
  for (std::int64_t c = 0; c < classes; ++c) m = max(load(tile + c * n), m);
  L run(T(0)), ties(T(0));
  Total<L> sum_e;
  for (std::int64_t c = 0; c < classes; ++c) {
    const L v = load(tile + c * n), e = exp_any(v - m, L(tau.k), L(tau.zero));
    if (run_ends(c)) sum_e.add(run), run = L(0);
    run = run + counted<W>(e, v, m);
    ties = ties + where(v == m, L(1), L(0));
    if constexpr (W != Want::kLogSumExp) store(tile + c * n, W == Want::kSoftmax ? e : v - m);
  }
  const L others = sum_e.with(run);
  if constexpr (W == Want::kLogSumExp) return fma(m, L(tau.inverse), log_z(others, ties));
  const bool log = W == Want::kLogSoftmax;
  const L factor = log ? L(tau.inverse) : L(1) / others;
  const L shift = log ? L(0) - (log_z(others, ties) + (m - m)) : L(0);
  for (std::int64_t c = 0; c < classes; ++c) store(tile + c * n, fma(load(tile + c * n), factor, shift));
  return m;
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
      store(number, softmax_tile<W>(scratch, classes, tau));
      if constexpr (W != Want::kLogSumExp) scatter(scratch, i, count, classes, chunk.grad);
      for (int j = 0; W == Want::kLogSumExp && j < count; ++j) call.row_out[chunk.first + i + j] = number[j];
    }
  };
  const auto by_row = [&](const Chunk<T>& chunk) {
    for (std::int64_t i = 0; i < chunk.count; ++i)
      softmax_row<W>(at(chunk.student, i), classes, tau, call.tau, scratch,
                     W == Want::kLogSumExp ? nullptr : at(chunk.grad, i),
                     W == Want::kLogSumExp ? call.row_out + chunk.first + i : nullptr);
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
