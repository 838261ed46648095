// The loss for rows of many classes: one row at a time, sixteen (or eight) neighbouring classes in the lanes.
//
// A row is read three times: for its largest logits, for its sums, and (from the stored exponentials) for the
// gradient. Its columns are cut at fixed edges into chunks, which threads may share when there are few rows,
// and these into blocks, whose sums are added in double: the order of all additions depends on the number of
// classes alone.
#pragma once

#include "../kernel_table.hpp"
#include "columns.hpp"
#include "kd_formula.hpp"
#include "kd_plan.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

// Large enough that a thread's share is worth waking it for.
constexpr std::int64_t kChunk = 8192;
constexpr int kMostChunks = 64;

// The columns of a row in chunks; the last one takes what is left over.
struct Chunks {
  std::int64_t classes, count, size;
  explicit Chunks(std::int64_t c) : classes(c) {
    count = c / kChunk < 1 ? 1 : (c / kChunk > kMostChunks ? kMostChunks : c / kChunk);
    size = c / count / kBlock * kBlock;
    if (count == 1) size = c;
  }
  Span operator[](std::int64_t i) const { return {i * size, i + 1 == count ? classes : (i + 1) * size}; }
};

template <class T>
struct RowInput {
  const T *s, *t;
  std::int64_t label;  // -1: none
};

// ---- First reading: the largest logits, and how far down the others go
// ---------------------------------------------

template <class T>
struct Extent {
  T ms, mt, lowest_s, lowest_t;
  void add(const Extent& x) {
    ms = x.ms > ms ? x.ms : ms, lowest_s = x.lowest_s < lowest_s ? x.lowest_s : lowest_s;
    mt = x.mt > mt ? x.mt : mt, lowest_t = x.lowest_t < lowest_t ? x.lowest_t : lowest_t;
  }
};
template <bool Soft, class T>
Extent<T> extent(const RowInput<T>& row, Span span) {
  using L = Lanes<T>;
  L ms(-infinity<T>()), mt = ms, lowest_s(infinity<T>()), lowest_t = lowest_s;
  for_columns<T>(span, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA {
    const L s = load(row.s + c);
    ms = max(s, ms);
    if constexpr (Soft) {
      const L t = load(row.t + c);
      lowest_s = min(s, lowest_s);
      mt = max(t, mt);
      lowest_t = min(t, lowest_t);
    }
  });
  return {largest(ms), largest(mt), smallest(lowest_s), smallest(lowest_t)};
}

// ---- Second reading: the sums
// -----------------------------------------------------------------------------------------

template <class T>
struct Scratch {
  T *et, *de, *e1;
};

template <bool Hard, bool Soft, bool Keep, int Power, class T>
void add_span(const RowInput<T>& row, Span span, const Frame<T>& frame, const Scratch<T>& scratch,
              Sums<double>& total) {
  using L = Lanes<T>;
  for_blocks(span, [&](Span block) KDLOSS_INLINE_LAMBDA {
    Sums<L> sums;
    T label_e1 = 0;
    for_columns<T>(block, [&](std::int64_t c, std::int64_t fresh) KDLOSS_INLINE_LAMBDA {
      const L s = load(row.s + c), t = Soft ? load(row.t + c) : s;
      Terms<T> x = plain_terms<Hard, Soft, Power>(s, t, frame);
      if constexpr (Keep) {
        if constexpr (Soft) store(scratch.et + c, x.et), store(scratch.de + c, x.de);
        if constexpr (Hard) store(scratch.e1 + c, x.e1);
      }
      if (__builtin_expect(fresh != c, 0)) {
        if constexpr (Soft) {
          x.et = only_fresh(x.et, fresh - c);
          x.es = only_fresh(x.es, fresh - c);
          x.de = only_fresh(x.de, fresh - c);
        }
        if constexpr (Hard) x.e1 = only_fresh(x.e1, fresh - c);
      }
      if constexpr (Hard) {
        const std::uint64_t at = static_cast<std::uint64_t>(row.label - fresh);
        if (__builtin_expect(at < static_cast<std::uint64_t>(c + L::kCount - fresh), 0)) {
          label_e1 = lane(x.e1, row.label - c);
          x.e1 = with_lane(x.e1, row.label - c, T(0));
        }
      }
      add<Hard, Soft>(sums, x);
    });
    if constexpr (Soft) {
      total.zt += sum(sums.zt);
      total.zs += sum(sums.zs);
      total.d += sum(sums.d);
      total.moved += sum(sums.moved);
    }
    if constexpr (Hard) {
      total.others += sum(sums.others);
      total.label += label_e1;
    }
  });
}

// ---- Third: the divergence term by term, and the gradient
// ----------------------------------------------------------

// tau^2 KL of a row that is near its teacher.
template <class T>
double near_kl(const RowInput<T>& row, Span span, const Frame<T>& frame, const Temperature<T>& temperature,
               const Sums<double>& sums, const SoftResult<double>& soft) {
  using L = Lanes<T>;
  const L inverse_zt(static_cast<T>(1 / sums.zt)), inverse_zs(static_cast<T>(1 / sums.zs));
  const L mean_de(static_cast<T>(first(soft.mean_de))), tau(temperature.tau);
  const L tau_ratio(static_cast<T>(first(soft.log_ratio) * static_cast<double>(temperature.tau)));
  double kl = 0;
  for_blocks(span, [&](Span block) KDLOSS_INLINE_LAMBDA {
    L sum_k(T(0));
    for_columns<T>(block, [&](std::int64_t c, std::int64_t fresh) KDLOSS_INLINE_LAMBDA {
      const Terms<T> x = plain_terms<false, true, 0>(load(row.s + c), load(row.t + c), frame);
      L k = near_kl_term(x.et * inverse_zt, x.gap - tau_ratio, (x.de - mean_de * x.et) * inverse_zs, tau,
                         frame.inverse_tau);
      if (__builtin_expect(fresh != c, 0)) k = only_fresh(k, fresh - c);
      sum_k = sum_k + k;
    });
    kl += sum(sum_k);
  });
  return kl;
}

template <bool Hard, bool Soft, class T>
void write_gradient(T* grad, Span span, const GradientFactors<Lanes<T>>& factor, const Scratch<T>& scratch) {
  for_columns<T>(span, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA {
    Lanes<T> g(T(0));
    if constexpr (Hard) g = factor.e1 * load(scratch.e1 + c);
    if constexpr (Soft) g = fma(factor.de, load(scratch.de + c), fma(factor.et, load(scratch.et + c), g));
    store(grad + c, g);
  });
}

// ---- The row
// -------------------------------------------------------------------------------------------------------

// Runs body(chunk, span) for every chunk of a row: on this thread, or on several where the call asks for it.
template <class T, class Body>
void for_chunks(const KdCall<T>& call, const Chunks& chunks, Body&& body) {
  if (call.split_columns == nullptr || chunks.count == 1) {
    for (std::int64_t i = 0; i < chunks.count; ++i) body(i, chunks[i]);
    return;
  }
  struct Context {
    Body& body;
    const Chunks& chunks;
  } context{body, chunks};
  call.split_columns(
      chunks.count,
      [](void* p, std::int64_t i) {
        Context& c = *static_cast<Context*>(p);
        c.body(i, c.chunks[i]);
      },
      &context, call.threads);
}

// The losses of one row and, where grad is not null, its gradient. False, with nothing written, for a row
// beyond the plain path's reach.
template <bool Hard, bool Soft, bool Grad, class T>
bool kd_row(const KdCall<T>& call, const RowInput<T>& row, T* grad, const Temperature<T>& temperature,
            const RowPlan& plan, const Scratch<T>& scratch, RowLoss& loss) {
  using D = Lanes<double>;
  const Chunks chunks(call.classes);
  const double tau = static_cast<double>(temperature.tau);

  Extent<T> extents[kMostChunks];
  for_chunks(call, chunks, [&](std::int64_t i, Span span) { extents[i] = extent<Soft>(row, span); });
  Extent<T> whole = extents[0];
  for (std::int64_t i = 1; i < chunks.count; ++i) whole.add(extents[i]);
  const T reach = Reach<T>::kSoftened * temperature.tau;
  if (Soft && !(whole.ms - whole.lowest_s <= reach && whole.mt - whole.lowest_t <= reach)) return false;

  const Frame<T> frame(Lanes<T>(whole.ms), Lanes<T>(whole.mt), temperature);
  const bool powers = Hard && Soft && whole.mt - whole.lowest_t <= Reach<T>::kTeacher;
  Sums<double> part[kMostChunks];
  with_power(powers ? temperature.power : 0, [&](auto power) {
    constexpr int kPower = Hard && Soft ? power.value : 0;
    for_chunks(call, chunks, [&](std::int64_t i, Span span) {
      add_span<Hard, Soft, Grad, kPower>(row, span, frame, scratch, part[i]);
    });
  });
  Sums<double> sums;
  for (std::int64_t i = 0; i < chunks.count; ++i) sums.add(part[i]);

  // All that follows is one number a row; it goes through the same formulas, in lanes that agree.
  Sums<D> wide;
  wide.zt = sums.zt, wide.zs = sums.zs, wide.d = sums.d, wide.moved = sums.moved;
  wide.others = sums.others, wide.label = sums.label;
  SoftResult<double> soft{D(0.0), D(0.0), D(0.0)};
  if constexpr (Hard) {
    const double below = static_cast<double>(whole.ms) - static_cast<double>(row.s[row.label]);
    loss.hard = first(hard_result(wide, D(below)));
    if (!(loss.hard >= Reach<T>::kTail)) return false;
  }
  if constexpr (Soft) {
    soft = soft_result(wide, D(tau));
    loss.soft = first(soft.kl) * tau * tau;
    if (any(~kl_is_far(soft))) {
      double kl[kMostChunks];
      for_chunks(call, chunks, [&](std::int64_t i, Span span) {
        kl[i] = near_kl(row, span, frame, temperature, sums, soft);
      });
      loss.soft = 0;
      for (std::int64_t i = 0; i < chunks.count; ++i) loss.soft += kl[i];
      if (any(~near_kl_is_fit(D(loss.soft), soft, D(tau), static_cast<double>(Reach<T>::kTail))))
        return false;
    }
  }
  if constexpr (Grad) {
    if constexpr (Hard) scratch.e1[row.label] = static_cast<T>(-sums.others);
    const GradientFactors<D> f = gradient_factors(wide, soft, D(plan.hard_weight * call.grad_scale),
                                                  D(plan.soft_weight * call.grad_scale * tau));
    const GradientFactors<Lanes<T>> factor{static_cast<T>(first(f.e1)), static_cast<T>(first(f.de)),
                                           static_cast<T>(first(f.et))};
    for_chunks(call, chunks,
               [&](std::int64_t, Span span) { write_gradient<Hard, Soft>(grad, span, factor, scratch); });
  }
  return true;
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
