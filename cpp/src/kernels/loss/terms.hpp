// The loops over classes that both layouts share.
//
// Their unit is the group: a Lanes of neighbouring classes of one row, or of one class of as many rows.
// Students and teachers lie group after group; so do the numbers that they leave for the gradient: es,
// slope and e1.
#pragma once

#include "../row/plan.hpp"
#include "../simd/layouts.hpp"
#include "divergences.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Some groups of students, teachers and terms: es, slope and e1 lie `apart` elements from each other. What
// slope() holds depends on the divergence: de for KL, s - t for MSE, and es times f less that of the top
// class (divergences.hpp) for all others. If the row's length is no multiple of the lane count, the last
// group's logits are loaded `stale` elements early. Its first `stale` lanes repeat the previous group's
// classes, and are zeroed in sums.
template <class T>
struct Groups {
  static constexpr std::int64_t kSize = Lanes<T>::kCount;
  const T *s, *t;
  T* terms;
  std::int64_t apart, count, stale = 0;
  std::int64_t tail = stale > 0 ? (count - 1) * kSize : -1;  // where the group that reaches back begins

  T* es() const { return terms; }
  T* slope() const { return terms + apart; }
  T* e1() const { return terms + 2 * apart; }
  // What begins with that native vector of each group.
  Groups part(int i) const {
    const std::int64_t at = i * Vector<T>::kCount;
    return {s + at, t + at, terms + at, apart, count, stale};
  }
  // Whether the group at element i reaches back, and where its logits are read.
  KDLOSS_INLINE bool reaches_back(std::int64_t i) const { return i == tail; }
  KDLOSS_INLINE std::int64_t from(std::int64_t i) const { return reaches_back(i) ? i - stale : i; }
  // Calls body(i, from) with the index of each group's first term, and of its first logit.
  template <class Body>
  KDLOSS_INLINE void each(Body&& body) const {
    const std::int64_t last = (count - 1) * kSize;
    for (std::int64_t i = 0; i < last; i += kSize) body(i, i);
    body(last, last - stale);
  }
};
// Zero in the lanes that another group has, of the vector that is part of its group.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> only_fresh(Lanes<T, P> x, std::int64_t stale, int part) {
  return only_fresh(x, stale - part * Lanes<T, P>::kCount);
}

// Calls finish(begin(i), i) for all groups, by the index of their first element: each is begun a round before
// it is finished. The processor's out-of-order window covers only two or three native vectors of logits, so
// that long chains of dependent operations would leave units idle. We therefore start one group's exponents
// before we finish those of the previous group (software pipelining), and unroll by two, so that what was
// begun is not moved from register to register. Loops with long chains take the first native vector of every
// group, then the second of every group: two at once would need more registers than AVX2 has.
template <class T, class Begin, class Finish>
KDLOSS_INLINE void for_groups(std::int64_t count, Begin&& begin, Finish&& finish) {
  constexpr std::int64_t n = Groups<T>::kSize;
  if (count == 0) return;
  const std::int64_t last = (count - 1) * n;
  auto even = begin(0);
  std::int64_t i = 0;
  for (; i < last; i += 2 * n) {
    const auto odd = begin(i + n);
    finish(even, i);
    even = begin(i + n < last ? i + 2 * n : last);
    finish(odd, i + n);
  }
  if (i == last) finish(even, i);
}

// ---- First pass: the largest logits, and how far down the others go
template <class T>
struct Extent {
  using L = Lanes<T>;
  L ms, mt, lowest_s, lowest_t;
  L label_logit;  // where labels are in lanes

  KDLOSS_INLINE void add(const Extent& x) {
    ms = max(x.ms, ms), lowest_s = min(x.lowest_s, lowest_s);
    mt = max(x.mt, mt), lowest_t = min(x.lowest_t, lowest_t);
    label_logit = x.label_logit;
  }
};
template <bool Soft, class T, class Labels>
KDLOSS_INLINE Extent<T> find_extent(const Groups<T>& groups, Labels labels) {
  const Lanes<T> most(infinity<T>()), least = Lanes<T>(0) - most;
  Extent<T> x{least, least, most, most, Lanes<T>(0)};
  groups.each([&](std::int64_t, std::int64_t i) KDLOSS_INLINE_LAMBDA {
    const Lanes<T> s = load(groups.s + i);
    x.ms = max(s, x.ms), x.lowest_s = min(s, x.lowest_s);
    if constexpr (Soft) {
      const Lanes<T> t = load(groups.t + i);
      x.mt = max(t, x.mt), x.lowest_t = min(t, x.lowest_t);
    }
    if constexpr (Labels::kInLanes)
      labels.at(i, [&](Mask<T> here) KDLOSS_INLINE_LAMBDA { x.label_logit = where(here, s, x.label_logit); });
  });
  return x;
}

// ---- Second pass: the exponentials and their sums
// How et, es and de come about: as normal_terms(), from gaps without their rounding errors or with; as
// wide_terms(); or as either, lane by lane.
enum Way { kRoundedGap, kExactGap, kWide, kMixed };

// e, e^2 or e^4: squared so many times.
template <int Squarings, class T, int P>
KDLOSS_INLINE Lanes<T, P> squared(Lanes<T, P> e) {
  for (int i = 0; i < Squarings; ++i) e = e * e;
  return e;
}
// Calls f with 0, 1 or 2 as a compile-time constant.
template <class F>
KDLOSS_INLINE auto with_squarings(int squarings, F&& f) {
  if (squarings == 2) return f(Constant<2>{});
  return squarings == 1 ? f(Constant<1>{}) : f(Constant<0>{});
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> squared(Lanes<T, P> e, Lanes<T, P> squarings) {
  using L = Lanes<T, P>;
  e = where(L(0) < squarings, e * e, e);
  return where(L(1) < squarings, e * e, e);
}

// The sum of e1 without the label's, and the label's, of one native vector of each group.
template <class T>
struct HardSums {
  using L = Vector<T>;
  L label_e1 = L(0), run = L(0);
  Total<L> total;

  template <class Labels>
  KDLOSS_INLINE void add(L e1, std::int64_t i, std::int64_t from, Labels& labels) {
    if (__builtin_expect(run_ends(i / Groups<T>::kSize), 0)) total.add(run), run = L(0);
    labels.at(from, [&](Mask<T, 1> here) KDLOSS_INLINE_LAMBDA {
      label_e1 = where(here, e1, label_e1), e1 = where(here, L(0), e1);
    });
    run = run + e1;
  }
  KDLOSS_INLINE void set(Sums<Lanes<T>>& to, int part) const {
    set_part(to.others, part, total.with(run)), set_part(to.label_e1, part, label_e1);
  }
};

// Leaves es and de, and adds up et, es, de and et gap. With Squarings >= 0 adds up e1 too, which is es
// squared so many times, and not stored: a row's terms fit L1 without it. whole_normal: where
// normal_terms() will do.
template <Way way, int Squarings, class T, class Labels, class Ahead>
__attribute__((noinline)) void add_soft(const Groups<T>& all, const Frame<T>& whole_frame,
                                        Mask<T> whole_normal, const Labels& all_labels, Ahead ahead,
                                        Sums<Lanes<T>>& to) {
  using V = Vector<T>;
  struct Begun {
    V s, t;
    Reduced<T, 1> reduced;
  };
  for (int part = 0; part < kParts; ++part) {
    Groups<T> groups = all.part(part);
    if constexpr (Labels::kInLanes) groups.tail = -1;  // as it is: the compiler need not ask
    const Frame<T, 1> frame = part_of(whole_frame, part);
    const Mask<T, 1> normal = part_of(whole_normal, part);
    auto labels = all_labels.part(part);
    Sums<V> run;
    Totals<V> total;
    HardSums<T> hard;
    for_groups<T>(
        groups.count,
        [&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
          const V s = load<1>(groups.s + groups.from(i)), t = load<1>(groups.t + groups.from(i));
          const V gap = way == kRoundedGap ? rounded_gap(s, t, frame) : logit_gap(s, t, frame);
          return Begun{s, t, {t, gap, frame}};
        },
        [&](const Begun& begun, std::int64_t i) KDLOSS_INLINE_LAMBDA {
          ahead.template ask<true>(groups, part, i);
          Terms<T, 1> x;
          if constexpr (way != kWide) x = normal_terms(begun.reduced);
          if constexpr (way == kWide) x = wide_terms(begun.s, begun.t, frame);
          if constexpr (way == kMixed) x = where(normal, x, wide_terms(begun.s, begun.t, frame));
          store(groups.es() + i, x.es), store(groups.slope() + i, x.de);
          if (__builtin_expect(groups.reaches_back(i), 0)) {
            x.et = only_fresh(x.et, groups.stale, part), x.es = only_fresh(x.es, groups.stale, part);
            x.de = only_fresh(x.de, groups.stale, part);
          }
          if (__builtin_expect(run_ends(i / Groups<T>::kSize), 0)) total.add(run), run = Sums<V>();
          add(run, x);
          if constexpr (Squarings >= 0) hard.add(squared<Squarings>(x.es), i, groups.from(i), labels);
        });
    const Sums<V> sums = total.with(run);
    set_part(to.zt, part, sums.zt), set_part(to.zs, part, sums.zs);
    set_part(to.d, part, sums.d), set_part(to.moved, part, sums.moved);
    hard.set(to, part);
  }
}

// Leaves e1 by an exponential of its own, and adds it up. Beyond: some may underflow, and in the lanes of a
// tile e1 may be es squared (where `squarings` are 0 or more) in some rows and not in others.
template <bool Beyond, class T, class Labels, class Ahead>
__attribute__((noinline)) void add_hard(const Groups<T>& all, Lanes<T> whole_ms, Mask<T> whole_normal,
                                        Lanes<T> whole_squarings, const Labels& all_labels, Ahead ahead,
                                        Sums<Lanes<T>>& to) {
  using V = Vector<T>;
  struct Begun {
    V s_below;
    Exponent<T, 1> reduced;
  };
  for (int part = 0; part < kParts; ++part) {
    Groups<T> groups = all.part(part);
    if constexpr (Labels::kInLanes) groups.tail = -1;  // as it is: the compiler need not ask
    const V ms = part_of(whole_ms, part), squarings = part_of(whole_squarings, part);
    const Mask<T, 1> normal = part_of(whole_normal, part), e1_is_power = V(0) <= squarings;
    auto labels = all_labels.part(part);
    HardSums<T> sums;
    for_groups<T>(
        groups.count,
        [&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
          const V s_below = load<1>(groups.s + groups.from(i)) - ms;
          return Begun{s_below, reduced_e1(s_below)};
        },
        [&](const Begun& begun, std::int64_t i) KDLOSS_INLINE_LAMBDA {
          ahead.template ask<false>(groups, part, i);
          V e1;
          if constexpr (!Beyond || Labels::kInLanes) e1 = normal_e1(begun.reduced);
          if constexpr (Beyond && !Labels::kInLanes) e1 = wide_e1(begun.s_below);
          if constexpr (Beyond && Labels::kInLanes) {
            const V es = where(e1_is_power, load<1>(groups.es() + i), V(1));
            e1 = where(normal, e1, wide_e1(begun.s_below));
            e1 = where(e1_is_power, squared(es, squarings), e1);
          }
          store(groups.e1() + i, e1);
          if (__builtin_expect(groups.reaches_back(i), 0)) e1 = only_fresh(e1, groups.stale, part);
          sums.add(e1, i, groups.from(i), labels);
        });
    sums.set(to, part);
  }
}

// ---- Third pass: KL of rows that are near their teacher, term by term
// p = a es, q = b et, and u = (gap + tau_log_ratio) / tau.
template <class T, int P = kParts>
struct NearFactors {
  Lanes<T, P> a, b, tau_log_ratio, tau;
};
template <class T>
KDLOSS_INLINE Vector<T> near_part(const Groups<T>& groups, int part, const Frame<T, 1>& frame,
                                  const NearFactors<T, 1>& factor, Mask<T, 1> in_reach) {
  using V = Vector<T>;
  const Mask<T, 1> from_difference = et_is_es_minus_de(V(0) - factor.tau_log_ratio * frame.inverse_tau);
  const bool all_from_difference = !any(~from_difference), any_wide = any(~in_reach);
  V run(T(0));
  Total<V> kl;
  for_groups<T>(
      groups.count,
      [&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
        return logit_gap(load<1>(groups.s + groups.from(i)), load<1>(groups.t + groups.from(i)), frame) +
               factor.tau_log_ratio;
      },
      [&](V tau_u, std::int64_t i) KDLOSS_INLINE_LAMBDA {
        const V es = load<1>(groups.es() + i), de = load<1>(groups.slope() + i);
        V et = es - de;
        if (__builtin_expect(!all_from_difference, 0)) {
          const V t_below = load<1>(groups.t + groups.from(i)) - frame.mt,
                  zero = V(T(-Format<T>::kBias)) / frame.k;
          const V own = where(in_reach, exp_normal(t_below, frame.k), exp_to_zero(t_below, frame.k, zero));
          et = where(from_difference, et, own);
        }
        const V q = factor.b * et, difference = fma(factor.a, es, V(0) - q);
        V k = near_kl_term(q, tau_u, difference, factor.tau, frame.inverse_tau);
        if (__builtin_expect(any_wide, 0))  // what the teacher masks: q = 0, and the term is p
          k = where(et == V(0), factor.tau * factor.tau * difference, k);
        if (__builtin_expect(groups.reaches_back(i), 0)) k = only_fresh(k, groups.stale, part);
        if (__builtin_expect(run_ends(i / Groups<T>::kSize), 0)) kl.add(run), run = V(0);
        run = run + k;
      });
  return kl.with(run);
}
template <class T>
Lanes<T> near_terms(const Groups<T>& groups, const Frame<T>& frame, const NearFactors<T>& factor,
                    Mask<T> in_reach) {
  Lanes<T> kl;
  for (int i = 0; i < kParts; ++i) {
    const NearFactors<T, 1> own{part_of(factor.a, i), part_of(factor.b, i), part_of(factor.tau_log_ratio, i),
                                part_of(factor.tau, i)};
    set_part(kl, i, near_part(groups.part(i), i, part_of(frame, i), own, part_of(in_reach, i)));
  }
  return kl;
}

// ---- Third pass: any other divergence
// What all classes of a row share. p and q are Zs times themselves.
template <class T, int P = kParts>
struct Shared {
  // In top_frame `mt` is not the largest: it is the teacher's logit of the student's largest class, so that
  // gaps are taken from that class.
  Frame<T, P> frame, top_frame;
  Lanes<T, P> tau, tau_log_ratio, zs_over_zt;
  TopClass<Lanes<T, P>> top;
};
template <class T>
KDLOSS_INLINE Shared<T, 1> part_of(const Shared<T>& x, int i) {
  return {part_of(x.frame, i),      part_of(x.top_frame, i),
          part_of(x.tau, i),        part_of(x.tau_log_ratio, i),
          part_of(x.zs_over_zt, i), {part_of(x.top.q, i), part_of(x.top.p, i), part_of(x.top.difference, i)}};
}
// p - q comes from p where u is small: it is p (1 - exp(-u)).
template <class T, int P>
KDLOSS_INLINE ClassNumbers<Lanes<T, P>> class_numbers(const Difference<T, P>& gap, Lanes<T, P> es,
                                                      Lanes<T, P> et, const Shared<T, P>& row) {
  using L = Lanes<T, P>;
  ClassNumbers<L> x;
  x.p = es, x.q = et * row.zs_over_zt;
  x.tau_u = logit_gap(gap, row.frame) + row.tau_log_ratio, x.u = x.tau_u * row.frame.inverse_tau;
  x.u_is_small = abs(x.u) < L(1);
  x.difference = where(x.u_is_small, es * (x.u - remainder(L(0) - x.u)), es - x.q);
  x.step = logit_gap(gap, row.top_frame) * row.frame.inverse_tau;
  x.student_masks = x.teacher_masks = all_lanes<L>(false);
  return x;
}

template <class L>
struct DivergenceSums {
  L terms = L(0), slopes = L(0);  // sum of p (f - f of the top class)
  L least = L(__builtin_inf());   // |tau u|
  KDLOSS_INLINE void add(const DivergenceSums& x) {
    terms = terms + x.terms, slopes = slopes + x.slopes, least = min(x.least, least);
  }
};
// Leaves the slopes p (f - f of the top class).
template <class Kind, class T>
KDLOSS_INLINE DivergenceSums<Lanes<T>> add_divergence(const Kind& divergence, const Groups<T>& all,
                                                      const Shared<T>& whole) {
  using V = Vector<T>;
  struct Begun {
    Difference<T, 1> gap;
    V es, et;
  };
  DivergenceSums<Lanes<T>> sums;
  for (int part = 0; part < kParts; ++part) {
    const Groups<T> groups = all.part(part);
    const Shared<T, 1> row = part_of(whole, part);
    V terms(T(0)), slopes(T(0)), least(__builtin_inf());
    Total<V> all_terms, all_slopes;
    for_groups<T>(
        groups.count,
        [&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
          const V s = load<1>(groups.s + groups.from(i)), t = load<1>(groups.t + groups.from(i));
          return Begun{two_diff(s, t), load<1>(groups.es() + i), exp_normal(t - row.frame.mt, row.frame.k)};
        },
        [&](const Begun& begun, std::int64_t i) KDLOSS_INLINE_LAMBDA {
          const ClassNumbers<V> x = class_numbers(begun.gap, begun.es, begun.et, row);
          V slope = x.p * divergence.slope(x, row.top), term = divergence.term(x, row.tau);
          store(groups.slope() + i, slope);
          if (__builtin_expect(run_ends(i / Groups<T>::kSize), 0)) {
            all_terms.add(terms), all_slopes.add(slopes);
            terms = slopes = V(0);
          }
          if (__builtin_expect(groups.reaches_back(i), 0))
            slope = only_fresh(slope, groups.stale, part), term = only_fresh(term, groups.stale, part);
          terms = terms + term, slopes = slopes + slope;
          least = min(abs(x.tau_u), least);
        });
    set_part(sums.terms, part, all_terms.with(terms)), set_part(sums.slopes, part, all_slopes.with(slopes));
    set_part(sums.least, part, least);
  }
  return sums;
}

template <class T>
__attribute__((noinline)) DivergenceSums<Lanes<T>> add_divergence(Divergence divergence, double beta,
                                                                  const Groups<T>& groups,
                                                                  const Shared<T>& row) {
  DivergenceSums<Lanes<T>> sums;
  with_divergence(divergence, [&](auto wrapped) KDLOSS_INLINE_LAMBDA {
    using Kind = typename decltype(wrapped)::Type;
    if constexpr (!Kind::kGradientIsPMinusQ) sums = add_divergence(Kind(beta), groups, row);
  });
  return sums;
}

// sum (s - t)^2. Leaves the slopes s - t, and 0 for es.
template <class T>
__attribute__((noinline)) Lanes<T> add_mse(const Groups<T>& groups) {
  Lanes<T> run(T(0));
  Total<Lanes<T>> total;
  groups.each([&](std::int64_t i, std::int64_t from) KDLOSS_INLINE_LAMBDA {
    Lanes<T> d = load(groups.s + from) - load(groups.t + from);
    store(groups.es() + i, Lanes<T>(T(0))), store(groups.slope() + i, d);
    if (run_ends(i / Groups<T>::kSize)) total.add(run), run = Lanes<T>(T(0));
    if (from != i) d = only_fresh(d, groups.stale);
    run = fma(d, d, run);
  });
  return total.with_or_infinite(run);
}

// ---- Last pass: the gradient, which follows from the terms alone
// e1 at element i: es squared that many times, or (-1) stored.
template <int Squarings, class T>
KDLOSS_INLINE Lanes<T> stored_e1(const Groups<T>& groups, std::int64_t i) {
  if constexpr (Squarings >= 0)
    return squared<Squarings>(load(groups.es() + i));
  else
    return load(groups.e1() + i);
}
// Calls f(hard, soft, squarings) with the three as compile-time constants.
template <class F>
KDLOSS_INLINE void with_loop(bool hard, bool soft, int squarings, F&& f) {
  if (!hard || !soft || squarings < 0)
    with_parts(hard, soft, [&](auto h, auto s) KDLOSS_INLINE_LAMBDA { f(h, s, Constant<-1>{}); });
  else
    with_squarings(squarings, [&](auto n) KDLOSS_INLINE_LAMBDA { f(Constant<true>{}, Constant<true>{}, n); });
}
template <bool Hard, bool Soft, int Squarings, class T, class Labels>
KDLOSS_INLINE void write_terms(const Groups<T>& groups, const GradientFactors<T>& factor, Labels labels,
                               Lanes<T> others, T* grad) {
  using L = Lanes<T>;
  groups.each([&](std::int64_t i, std::int64_t from) KDLOSS_INLINE_LAMBDA {
    L es(T(0)), slope = es, e1 = es;
    if constexpr (Soft) es = load(groups.es() + i), slope = load(groups.slope() + i);
    if constexpr (Hard) {
      e1 = stored_e1<Squarings>(groups, i);
      labels.at(from, [&](Mask<T> here) KDLOSS_INLINE_LAMBDA { e1 = where(here, L(0) - others, e1); });
    }
    store(grad + from, gradient<Hard, Soft>(factor, e1, slope, es));
  });
}

// p1 and p, for the Hessian.
template <bool Hard, bool Soft, int Squarings, class T>
KDLOSS_INLINE void write_probabilities(const Groups<T>& groups, Lanes<T> of_e1, Lanes<T> of_es, T* p1, T* p) {
  groups.each([&](std::int64_t i, std::int64_t from) KDLOSS_INLINE_LAMBDA {
    if constexpr (Hard) store(p1 + from, of_e1 * stored_e1<Squarings>(groups, i));
    if constexpr (Soft) store(p + from, of_es * load(groups.es() + i));
  });
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
