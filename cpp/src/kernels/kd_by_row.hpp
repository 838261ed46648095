// The loss for rows of many classes: one row at a time, sixteen (or eight) neighbouring classes in the lanes.
//
// A row is cut at fixed edges into blocks that fit the first cache. Each block is read for its largest logits
// and again for its sums, in the frame of its own largest logits; the sums are then brought into the row's
// frame and added in double, and the gradient follows from the stored exponentials. So the logits come from
// memory once however long a row is, threads may share its blocks, and the order of all additions depends on
// the number of classes alone.
#pragma once

#include "../kernel_table.hpp"
#include "columns.hpp"
#include "hessian.hpp"
#include "kd_formula.hpp"
#include "kd_plan.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

template <class T>
struct RowInput {
  const T *s, *t;
  std::int64_t label;  // -1: none
  std::int64_t ahead;  // from what is read now to what will be read next
};

// A row's working memory. First what the loops leave for the gradient, class by class; then, for each block,
// what is known of it, a field after the other so that the lanes of a Lanes value can be eight blocks.
template <class T>
class RowScratch {
 public:
  T *es, *de, *e1;
  enum Field {
    kMs,
    kMt,
    kLowestS,
    kLowestT,
    kPower,  // the first reading
    kZt,
    kZs,
    kD,
    kMoved,
    kOthers,
    kLabel,  // the second: Sums
    kE1Weight,
    kP,
    kDe,
    kEs,
    kTauLogRatio,
    kKl,  // for the third
    kFields
  };

  static std::int64_t padded(std::int64_t blocks) {
    constexpr std::int64_t n = Lanes<double>::kCount;
    return (blocks + n - 1) / n * n;
  }
  static std::int64_t whole_lanes(std::int64_t classes) {
    constexpr std::int64_t n = Lanes<T>::kCount;
    return (classes + n - 1) / n * n;
  }
  static std::int64_t size(std::int64_t classes) {
    const std::int64_t doubles = kFields * padded(block_count(classes));
    return 3 * whole_lanes(classes) + doubles * static_cast<std::int64_t>(sizeof(double) / sizeof(T));
  }
  RowScratch(double* memory, std::int64_t classes) : blocks_(memory), padded_(padded(block_count(classes))) {
    es = reinterpret_cast<T*>(memory + kFields * padded_);
    de = es + whole_lanes(classes), e1 = de + whole_lanes(classes);
    for (std::int64_t i = 0; i < kFields * padded_; ++i) blocks_[i] = 0;
  }
  double* operator[](Field field) const { return blocks_ + field * padded_; }

 private:
  double* blocks_;
  std::int64_t padded_;
};

// ---- First reading: the largest logits, and how far down the others go
template <class T>
struct Extent {
  T ms, mt, lowest_s, lowest_t;
};
template <bool Soft, class T>
KDLOSS_INLINE Extent<T> extent(const RowInput<T>& row, Span block) {
  using L = Lanes<T>;
  L ms(-infinity<T>()), mt = ms, lowest_s(infinity<T>()), lowest_t = lowest_s;
  for_columns<T>(block, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA {
    const L s = load(row.s + c);
    ms = max(s, ms);
    lowest_s = min(s, lowest_s);
    if constexpr (Soft) {
      const L t = load(row.t + c);
      mt = max(t, mt);
      lowest_t = min(t, lowest_t);
    }
  });
  return {largest(ms), largest(mt), smallest(lowest_s), smallest(lowest_t)};
}

// ---- Second reading: the sums
// False, with the scratch undefined, where the gaps need their rounding errors and were computed without.
template <bool Hard, bool Soft, bool Keep, int Power, bool Exact, class T>
bool add_block(const RowInput<T>& row, T* grad, Span block, const Frame<T>& frame,
               const RowScratch<T>& scratch, std::int64_t i) {
  using L = Lanes<T>;
  using Field = RowScratch<T>;
  constexpr bool kStoreE1 = Hard && Keep && !(Soft && Power != 0);
  Sums<L> sums;
  T label_e1 = 0;
  for_columns<T>(block, Hard ? row.label : -1,
                 [&](std::int64_t c, std::int64_t fresh, auto special) KDLOSS_INLINE_LAMBDA {
                   prefetch(row.s + c, row.ahead);
                   if constexpr (Soft) prefetch(row.t + c, row.ahead);
                   if constexpr (Keep) prefetch_for_writing(grad + c);
                   const L s = load(row.s + c), t = Soft ? load(row.t + c) : s;
                   Terms<T> x = plain_terms<Hard, Soft, Power, Exact>(s, t, frame);
                   if constexpr (Keep && Soft) store(scratch.es + c, x.es), store(scratch.de + c, x.de);
                   if constexpr (kStoreE1) store(scratch.e1 + c, x.e1);
                   if constexpr (special.value) {
                     if constexpr (Soft) {
                       x.et = only_fresh(x.et, fresh - c);
                       x.es = only_fresh(x.es, fresh - c);
                       x.de = only_fresh(x.de, fresh - c);
                     }
                     if constexpr (Hard) {
                       x.e1 = only_fresh(x.e1, fresh - c);
                       if (fresh <= row.label && row.label < c + L::kCount) {
                         label_e1 = lane(x.e1, row.label - c);
                         x.e1 = with_lane(x.e1, row.label - c, T(0));
                       }
                     }
                   }
                   add<Hard, Soft>(sums, x);
                 });
  if constexpr (Soft) {
    const T zt = sum(sums.zt), moved = sum(sums.moved);
    if (!Exact && !plain_gap_is_fit(first(frame.dm.value), moved, zt)) return false;
    scratch[Field::kZt][i] = zt, scratch[Field::kZs][i] = sum(sums.zs);
    scratch[Field::kD][i] = sum(sums.d), scratch[Field::kMoved][i] = moved;
  }
  if constexpr (Hard) scratch[Field::kOthers][i] = sum(sums.others), scratch[Field::kLabel][i] = label_e1;
  return true;
}

// ---- Third: the divergence term by term, and the gradient
// tau^2 KL of a block in a row that is near its teacher, from the stored es and de where they are fit for it.
template <bool Stored, class T>
double near_block(const RowInput<T>& row, Span block, const Frame<T>& frame,
                  const Temperature<T>& temperature, const RowScratch<T>& scratch, std::int64_t i) {
  using L = Lanes<T>;
  using Field = RowScratch<T>;
  const L b(static_cast<T>(scratch[Field::kDe][i])), lean(static_cast<T>(scratch[Field::kEs][i]));
  const L tau_log_ratio(static_cast<T>(scratch[Field::kTauLogRatio][i])), tau(temperature.tau);
  const bool from_difference = !any(~et_is_es_minus_de(L(0) - tau_log_ratio * frame.inverse_tau));
  L sum_k(T(0));
  const auto add_all = [&](auto stored, auto difference) KDLOSS_INLINE_LAMBDA {
    for_columns<T>(block, [&](std::int64_t c, std::int64_t fresh) KDLOSS_INLINE_LAMBDA {
      const L s = load(row.s + c), t = load(row.t + c);
      Terms<T> x;
      if constexpr (stored.value)
        x.es = load(scratch.es + c), x.de = load(scratch.de + c), x.gap = logit_gap(s, t, frame);
      else
        x = plain_terms<false, true, 0>(s, t, frame);
      if constexpr (difference.value) x.et = x.es - x.de;
      L k = near_kl_term(b * x.et, x.gap + tau_log_ratio, fma(b, x.de, lean * x.es), tau, frame.inverse_tau);
      if (__builtin_expect(fresh != c, 0)) k = only_fresh(k, fresh - c);
      sum_k = sum_k + k;
    });
  };
  if (!from_difference)
    add_all(No{}, No{});
  else if constexpr (Stored)
    add_all(Yes{}, Yes{});
  else
    add_all(No{}, Yes{});
  return sum(sum_k);
}

template <bool Hard, bool Soft, int Power, class T>
void write_gradient(T* grad, Span block, const GradientFactors<T>& factor, const RowScratch<T>& scratch) {
  for_columns<T>(block, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA {
    Lanes<T> e1(T(0)), de = e1, es = e1;
    if constexpr (Soft) de = load(scratch.de + c), es = load(scratch.es + c);
    if constexpr (Hard && Soft && Power != 0)
      e1 = power<Power>(es);
    else if constexpr (Hard)
      e1 = load(scratch.e1 + c);
    store(grad + c, gradient<Hard, Soft>(factor, e1, de, es));
  });
}

// ---- The row
// Runs body(i, block) for every block of a row: on this thread, or on several where the call asks for it.
template <class T, class Body>
void for_row(const KdCall<T>& call, Body&& body) {
  const std::int64_t count = block_count(call.classes);
  if (call.split_columns == nullptr) {
    for (std::int64_t i = 0; i < count; ++i) body(i, block_at(i, call.classes));
    return;
  }
  constexpr std::int64_t kShare = 8;  // blocks that are worth waking a thread for
  struct Context {
    Body& body;
    std::int64_t count, classes;
  } context{body, count, call.classes};
  call.split_columns((count + kShare - 1) / kShare,
                     [](void* p, std::int64_t share) {
                       const Context& c = *static_cast<Context*>(p);
                       for (std::int64_t i = share * kShare; i < c.count && i < (share + 1) * kShare; ++i)
                         c.body(i, block_at(i, c.classes));
                     },
                     &context, call.threads);
}

// A row's sums, and how each block's frame lies in the row's, from what is known of its blocks; eight blocks
// at a time.
template <bool Hard, bool Soft, class T>
struct Row {
  using D = Lanes<double>;
  using Field = RowScratch<T>;
  const RowScratch<T>& scratch;
  const Temperature<double>& temperature;
  std::int64_t blocks;
  double ms = -infinity<double>(), mt = ms;
  bool plain = true;  // within the plain path's reach
  Sums<D> sums;       // the same in all lanes
  SoftResult<double> soft{D(0.0), D(0.0), D(0.0)};
  D log_ratio_abs{0.0},
      tau_log_ratio_square{0.0};  // means under q of |log(A / B)| and its square times tau^2

  Row(const RowScratch<T>& scratch_, const Temperature<double>& temperature_, std::int64_t classes)
      : scratch(scratch_), temperature(temperature_), blocks(block_count(classes)) {}

  // et, es and e1 of a block are those of the row after multiplication with t, s and e1, and its gaps after
  // addition of shift.
  struct Weights {
    D t{1.0}, s{1.0}, e1{1.0}, shift{0.0};
  };
  KDLOSS_INLINE Weights weights(std::int64_t i) const {
    Weights w;
    if (blocks == 1) return w;
    const D below_s = load(scratch[Field::kMs] + i) - D(ms), below_t = load(scratch[Field::kMt] + i) - D(mt);
    if constexpr (Hard) w.e1 = exp_to_zero(below_s, D(kLog2E), D(zero_at<double>(kLog2E, 0)));
    if constexpr (Soft) {
      w.s = exp_normal(below_s, D(temperature.k)), w.t = exp_normal(below_t, D(temperature.k));
      w.shift = logit_gap(load(scratch[Field::kMs] + i), load(scratch[Field::kMt] + i),
                          Frame<double>(D(ms), D(mt), temperature));
    }
    return w;
  }
  // a - b, where log_ratio = log(a / b).
  static KDLOSS_INLINE D difference(D a, D b, D log_ratio) {
    const D expm1 = fma(log_ratio * log_ratio, expm1_remainder_over_square(log_ratio), log_ratio);
    return where(abs(log_ratio) < D(1.0), b * expm1, a - b);
  }

  void find_frame() {
    double lowest_s = infinity<double>(), lowest_t = lowest_s;
    for (std::int64_t i = 0; i < blocks; ++i) {
      const auto field = [&](auto which) { return scratch[which][i]; };
      ms = ms < field(Field::kMs) ? field(Field::kMs) : ms;
      mt = mt < field(Field::kMt) ? field(Field::kMt) : mt;
      lowest_s = field(Field::kLowestS) < lowest_s ? field(Field::kLowestS) : lowest_s;
      lowest_t = field(Field::kLowestT) < lowest_t ? field(Field::kLowestT) : lowest_t;
    }
    const double reach = static_cast<double>(Reach<T>::kSoftened) * temperature.tau;
    if (Soft) plain = ms - lowest_s <= reach && mt - lowest_t <= reach;
    for (std::int64_t i = blocks; blocks > 1 && i < RowScratch<T>::padded(blocks); ++i)
      scratch[Field::kMs][i] = ms, scratch[Field::kMt][i] = mt;
  }

  void add_blocks() {
    for (std::int64_t i = 0; i < blocks; i += D::kCount) {
      const auto field = [&](auto which) KDLOSS_INLINE_LAMBDA { return load(scratch[which] + i); };
      const Weights w = weights(i);
      if constexpr (Soft) {
        const D zt = field(Field::kZt), zs = field(Field::kZs);
        const D lean = difference(w.s, w.t, w.shift * D(temperature.inverse));
        sums.zt = fma(w.t, zt, sums.zt);
        sums.zs = fma(w.s, zs, sums.zs);
        sums.d = sums.d + fma(w.t, field(Field::kD), lean * zs);
        sums.moved = fma(w.t, fma(w.shift, zt, field(Field::kMoved)), sums.moved);
      }
      if constexpr (Hard) {
        sums.others = fma(w.e1, field(Field::kOthers), sums.others);
        sums.label = fma(w.e1, field(Field::kLabel), sums.label);
        store(scratch[Field::kE1Weight] + i, w.e1);
      }
    }
    sums.zt = sum(sums.zt), sums.zs = sum(sums.zs), sums.d = sum(sums.d), sums.moved = sum(sums.moved);
    sums.others = sum(sums.others), sums.label = sum(sums.label);
  }

  // What each block needs to find p - q = A es - B et = B de + (A - B) es, and u = (gap + tau log(A / B)) /
  // tau, where p = A es and q = B et.
  void find_factors() {
    soft = soft_result(sums, D(temperature.inverse));
    for (std::int64_t i = 0; i < blocks; i += D::kCount) {
      const Weights w = weights(i);
      const D a = w.s / sums.zs, b = w.t * soft.inverse_zt;
      const D tau_log_ratio = w.shift - soft.log_ratio * D(temperature.tau);
      const D log_ratio = tau_log_ratio * D(temperature.inverse), q = b * load(scratch[Field::kZt] + i);
      store(scratch[Field::kTauLogRatio] + i, tau_log_ratio);
      store(scratch[Field::kP] + i, a);
      store(scratch[Field::kDe] + i, b);
      store(scratch[Field::kEs] + i, difference(a, b, log_ratio));
      log_ratio_abs = fma(q, abs(log_ratio), log_ratio_abs);
      tau_log_ratio_square = fma(q * tau_log_ratio, tau_log_ratio, tau_log_ratio_square);
    }
    log_ratio_abs = sum(log_ratio_abs), tau_log_ratio_square = sum(tau_log_ratio_square);
  }
};

// p1 and p of a row whose gradient is done, in the place of its e1 and es.
template <bool Hard, bool Soft, int Power, class T>
void write_probabilities(Span block, Lanes<T> e1_factor, Lanes<T> es_factor, const RowScratch<T>& scratch) {
  for (std::int64_t c = block.begin; c < block.end; c += Lanes<T>::kCount) {
    Lanes<T> es(T(0));
    if constexpr (Soft) es = load(scratch.es + c), store(scratch.es + c, es_factor * es);
    if constexpr (Hard && Soft && Power != 0)
      store(scratch.e1 + c, e1_factor * power<Power>(es));
    else if constexpr (Hard)
      store(scratch.e1 + c, e1_factor * load(scratch.e1 + c));
  }
}

// The losses of one row and, where grad is not null, its gradient, and the Hessian where hess is not null
// too. False, with nothing written, for a row beyond the plain path's reach.
template <bool Hard, bool Soft, bool Grad, class T>
bool kd_row(const KdCall<T>& call, const RowInput<T>& input, T* grad, T* hess,
            const Temperature<T>& temperature, const Temperature<double>& exact, const RowPlan& plan,
            const RowScratch<T>& scratch, RowParts& loss) {
  using D = Lanes<double>;
  using Field = RowScratch<T>;
  const auto frame_of = [&](std::int64_t i) {
    return Frame<T>(Lanes<T>(static_cast<T>(scratch[Field::kMs][i])),
                    Lanes<T>(static_cast<T>(scratch[Field::kMt][i])), temperature);
  };
  for_row(call, [&](std::int64_t i, Span block) {
    const Extent<T> x = extent<Soft>(input, block);
    scratch[Field::kMs][i] = x.ms, scratch[Field::kLowestS][i] = x.lowest_s;
    scratch[Field::kMt][i] = x.mt, scratch[Field::kLowestT][i] = x.lowest_t;
    const bool powers =
        Hard && Soft && x.mt - x.lowest_t <= Reach<T>::kTeacher && x.ms - x.lowest_s <= Reach<T>::kStudent;
    const Frame<T> frame = frame_of(i);
    const int power_used = powers ? temperature.power : 0;
    with_power<Hard && Soft>(power_used, [&](auto power) {
      const auto add = [&](auto exact) {
        return add_block<Hard, Soft, Grad, power.value, exact.value>(input, grad, block, frame, scratch, i);
      };
      if (!add(No{})) add(Yes{});
    });
    scratch[Field::kPower][i] = power_used;
  });

  Row<Hard, Soft, T> row(scratch, exact, call.classes);
  row.find_frame();
  if (!row.plain) return false;
  row.add_blocks();
  if constexpr (Hard) {
    const double below = row.ms - static_cast<double>(input.s[input.label]);
    loss.hard = first(hard_result(row.sums, D(below)));
    if (!(loss.hard >= static_cast<double>(Reach<T>::kTail))) return false;
  }
  if constexpr (Soft) {
    row.find_factors();
    loss.soft = first(row.soft.kl) * exact.tau * exact.tau;
    if (any(~kl_is_far(row.soft.kl, row.log_ratio_abs))) {
      for_row(call, [&](std::int64_t i, Span block) {
        scratch[Field::kKl][i] = near_block<Grad>(input, block, frame_of(i), temperature, scratch, i);
      });
      loss.soft = 0;
      for (std::int64_t i = 0; i < row.blocks; ++i) loss.soft += scratch[Field::kKl][i];
      if (any(~near_kl_is_fit(D(loss.soft), row.tau_log_ratio_square, D(exact.tau),
                              static_cast<double>(Reach<T>::kTail))))
        return false;
    }
  }
  if constexpr (Grad) {
    const double hard_weight = plan.hard_slope() * call.grad_scale / first(row.sums.others + row.sums.label);
    const double soft_weight = plan.soft_weight * call.grad_scale * exact.tau;
    for_row(call, [&](std::int64_t i, Span block) {
      const double de = soft_weight * scratch[Field::kDe][i], es = soft_weight * scratch[Field::kEs][i];
      const double e1 = hard_weight * scratch[Field::kE1Weight][i];
      GradientFactors<T> factor{static_cast<T>(e1), static_cast<T>(de), static_cast<T>(es)};
      with_power<Hard && Soft>(static_cast<int>(scratch[Field::kPower][i]), [&](auto power) {
        write_gradient<Hard, Soft, power.value>(grad, block, factor, scratch);
      });
      const std::int64_t y = input.label;
      if (!Hard || y < block.begin || y >= block.end) return;
      double at_label =
          hard_weight * first(plan.keeps_p1 ? row.sums.label : Lanes<double>(0.0) - row.sums.others);
      if constexpr (Soft)
        at_label += de * static_cast<double>(scratch.de[y]) + es * static_cast<double>(scratch.es[y]);
      grad[y] = static_cast<T>(at_label);
    });
  }
  if (Grad && hess != nullptr) {
    const double inverse_total = 1 / first(row.sums.others + row.sums.label);
    for_blocks(call.classes, [&, i = std::int64_t(0)](Span block) mutable {
      const auto e1 = static_cast<T>(Hard ? scratch[Field::kE1Weight][i] * inverse_total : 0);
      const auto es = static_cast<T>(Soft ? scratch[Field::kP][i] : 0);
      with_power<Hard && Soft>(static_cast<int>(scratch[Field::kPower][i]), [&](auto power) {
        write_probabilities<Hard, Soft, power.value, T>(block, e1, es, scratch);
      });
      ++i;
    });
    hessian_row(Hard ? scratch.e1 : nullptr, Soft ? scratch.es : nullptr, call.classes,
                plan.hard_slope() * call.hess_scale, plan.soft_weight * call.hess_scale, hess);
  }
  return true;
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
