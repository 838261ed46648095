// The loops over classes that both layouts share.
//
// Their unit is the group: a Lanes of neighbouring classes of one row, or of one class of as many rows.
// Students and teachers lie group after group; so do the terms that they leave for the gradient: es, de and
// e1.
#pragma once

#include "../simd/layouts.hpp"
#include "divergences.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Some groups of students, teachers and terms: es begins at terms, de and e1 each `apart` elements further.
// The last group may reach back: its logits are read `stale` elements before its terms lie, and as many of
// its classes are those of the group before it.
template <class T>
struct Groups {
  static constexpr std::int64_t kSize = Lanes<T>::kCount;
  const T *s, *t;
  T* terms;
  std::int64_t apart, count, stale = 0;

  // What begins with that native vector of each group.
  Groups part(int i) const {
    const std::int64_t at = i * Vector<T>::kCount;
    return {s + at, t + at, terms + at, apart, count, stale};
  }
  std::int64_t tail() const { return stale > 0 ? (count - 1) * kSize : -1; }
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
// it is finished. A processor looks ahead over some hundred operations, which is two or three native vectors
// of logits, and finds as much to do at once as their chains of dependent operations are short. So loops with
// long chains take one native vector of each group, and then the next of each: two at once need more
// registers than AVX2 has. Two rounds are written out, so that what was begun is not moved from register to
// register.
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
  L ms = L(-infinity<T>()), mt = ms, lowest_s = L(infinity<T>()), lowest_t = lowest_s;
  L label = L(0);  // the label's logit, in lanes

  KDLOSS_INLINE void add(const Extent& x) {
    ms = max(x.ms, ms), lowest_s = min(x.lowest_s, lowest_s);
    mt = max(x.mt, mt), lowest_t = min(x.lowest_t, lowest_t);
    label = x.label;
  }
};
template <bool Hard, bool Soft, class T, class Labels>
KDLOSS_INLINE Extent<T> find_extent(const Groups<T>& groups, Labels labels) {
  Extent<T> x;
  groups.each([&](std::int64_t, std::int64_t i) KDLOSS_INLINE_LAMBDA {
    const Lanes<T> s = load(groups.s + i);
    x.ms = max(s, x.ms), x.lowest_s = min(s, x.lowest_s);
    if constexpr (Soft) {
      const Lanes<T> t = load(groups.t + i);
      x.mt = max(t, x.mt), x.lowest_t = min(t, x.lowest_t);
    }
    if constexpr (Hard && Labels::kInLanes)
      labels.at(i, [&](Mask<T> here) KDLOSS_INLINE_LAMBDA { x.label = where(here, s, x.label); });
  });
  return x;
}

// ---- Second pass: the terms and their sums
// How they come about: by plain_terms(), from gaps without their rounding errors or with; by wide_terms(); or
// by either, lane by lane.
enum Way { kPlain, kExact, kWide, kMixed };

// Where plain_terms() will do, and where p1's exponential is es squared that many times, or (-1) not.
template <class T, int P = kParts>
struct Reach {
  Mask<T, P> plain;
  Lanes<T, P> squarings;
  int times;  // squarings, where they are the same in all lanes
};
template <class T>
KDLOSS_INLINE Reach<T, 1> part_of(const Reach<T>& x, int i) {
  return {part_of(x.plain, i), part_of(x.squarings, i), x.times};
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> squared(Lanes<T, P> e, Lanes<T, P> times) {
  using L = Lanes<T, P>;
  e = where(L(0) < times, e * e, e);
  return where(L(1) < times, e * e, e);
}
// The same for all lanes: by a branch where an instruction set has no registers for masks.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> squared(Lanes<T, P> e, int times) {
  if constexpr (kNativeBytes == 64) return squared(e, Lanes<T, P>(static_cast<T>(times)));
  if (times > 0) e = e * e;
  if (times > 1) e = e * e;
  return e;
}

// p1's exponential at element i. Where it is es squared it is not stored: a row's terms fit the first cache
// without it.
template <bool Squared, class T>
KDLOSS_INLINE Lanes<T> stored_e1(const Groups<T>& groups, int times, std::int64_t i) {
  if constexpr (Squared)
    return squared(load(groups.terms + i), times);
  else
    return load(groups.terms + 2 * groups.apart + i);
}

// The groups at element i: as many as the frame has parts for.
template <bool Soft, Way way, class T, int P>
KDLOSS_INLINE Reduced<T, P> begin_groups(const Groups<T>& groups, std::int64_t i, const Frame<T, P>& frame) {
  const Lanes<T, P> s = load<P>(groups.s + i), t = Soft ? load<P>(groups.t + i) : s;
  return {s, t, way == kPlain ? plain_gap(s, t, frame) : logit_gap(s, t, frame), frame};
}
// Their terms, which are also stored.
template <bool Hard, bool Soft, bool Squared, Way way, class T, int P>
KDLOSS_INLINE Terms<T, P> finish_groups(const Reduced<T, P>& begun, const Groups<T>& groups, std::int64_t i,
                                        const Frame<T, P>& frame, const Reach<T, P>& reach) {
  using L = Lanes<T, P>;
  Terms<T, P> x;
  if constexpr (way == kWide)
    x = wide_terms<Hard, Soft>(begun.s, begun.t, frame);
  else
    x = plain_terms < Hard && !Squared, Soft > (begun, frame);
  if constexpr (Squared) x.e1 = squared(x.es, reach.times);
  if constexpr (way == kMixed) {
    if constexpr (Hard && Soft) {
      const Mask<T, P> is_square = L(0) <= reach.squarings;
      x.e1 = where(is_square, squared(where(is_square, x.es, L(1)), reach.squarings), x.e1);
    }
    x = where(reach.plain, x, wide_terms<Hard, Soft>(begun.s, begun.t, frame));
  }
  T* const terms = groups.terms + i;
  if constexpr (Soft) store(terms, x.es), store(terms + groups.apart, x.de);
  if constexpr (Hard && !Squared) store(terms + 2 * groups.apart, x.e1);
  return x;
}

// The sums over some groups. Labels know where the label is, Ahead what will be read next.
template <bool Hard, bool Soft, bool Squared, Way way, class T, class Labels, class Ahead>
__attribute__((noinline)) void add_terms(const Groups<T>& all, const Frame<T>& whole_frame,
                                         const Reach<T>& whole_reach, const Labels& all_labels,
                                         const Ahead& all_ahead, Sums<Lanes<T>>& to) {
  using V = Vector<T>;
  Ahead ahead = all_ahead;
  for (int part = 0; part < kParts; ++part) {
    const Groups<T> groups = all.part(part);
    const Frame<T, 1> frame = part_of(whole_frame, part);
    const Reach<T, 1> reach = part_of(whole_reach, part);
    const std::int64_t tail = groups.tail();
    const auto from = [&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
      return !Labels::kInLanes && i == tail ? i - groups.stale : i;
    };
    auto labels = all_labels.part(part);
    V label(T(0));
    Sums<V> run;
    Totals<V> total;
    for_groups<T>(
        groups.count,
        [&](std::int64_t i) KDLOSS_INLINE_LAMBDA { return begin_groups<Soft, way>(groups, from(i), frame); },
        [&](const Reduced<T, 1>& begun, std::int64_t i) KDLOSS_INLINE_LAMBDA {
          ahead.template ask<Soft>(groups, part, i);
          Terms<T, 1> x = finish_groups<Hard, Soft, Squared, way>(begun, groups, i, frame, reach);
          if (!Labels::kInLanes && __builtin_expect(i == tail, 0))
            x = {only_fresh(x.e1, groups.stale, part), only_fresh(x.et, groups.stale, part),
                 only_fresh(x.es, groups.stale, part), only_fresh(x.de, groups.stale, part), x.gap};
          if (__builtin_expect(run_ends(i / Groups<T>::kSize), 0)) total.add(run), run = Sums<V>();
          if constexpr (Hard)
            labels.at(from(i), [&](Mask<T, 1> here) KDLOSS_INLINE_LAMBDA {
              label = where(here, x.e1, label), x.e1 = where(here, V(0), x.e1);
            });
          add<Hard, Soft>(run, x);
        });
    Sums<V> sums = total.with(run);
    sums.label = label;
    set_part(to, part, sums);
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
  const std::int64_t tail = groups.tail();
  const auto from = [&](std::int64_t i) KDLOSS_INLINE_LAMBDA { return i == tail ? i - groups.stale : i; };
  V run(T(0));
  Total<V> kl;
  for_groups<T>(
      groups.count,
      [&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
        return logit_gap(load<1>(groups.s + from(i)), load<1>(groups.t + from(i)), frame) +
               factor.tau_log_ratio;
      },
      [&](V tau_u, std::int64_t i) KDLOSS_INLINE_LAMBDA {
        const V es = load<1>(groups.terms + i), de = load<1>(groups.terms + groups.apart + i);
        V et = es - de;
        if (__builtin_expect(!all_from_difference, 0)) {
          const V t_below = load<1>(groups.t + from(i)) - frame.mt, zero = V(T(-Format<T>::kBias)) / frame.k;
          const V own = where(in_reach, exp_normal(t_below, frame.k), exp_to_zero(t_below, frame.k, zero));
          et = where(from_difference, et, own);
        }
        const V q = factor.b * et, difference = fma(factor.a, es, V(0) - q);
        V k = near_kl_term(q, tau_u, difference, factor.tau, frame.inverse_tau);
        if (__builtin_expect(any_wide, 0))  // what the teacher masks: q = 0, and the term is p
          k = where(et == V(0), factor.tau * factor.tau * difference, k);
        if (__builtin_expect(i == tail, 0)) k = only_fresh(k, groups.stale, part);
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
  Frame<T, P> frame, top_frame;  // top_frame is that of the student's largest class
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
  x.wanted_only = x.unwanted = L(0) < L(0);
  return x;
}

template <class L>
struct DivergenceSums {
  L terms = L(0), slopes = L(0);  // sum of p (f - f of the top class)
  L least = L(__builtin_inf());   // |tau u|
};
// Leaves p (f - f of the top class) in the place of de.
template <class D, class T>
__attribute__((noinline)) void add_divergence(const D& divergence, const Groups<T>& all,
                                              const Shared<T>& whole, DivergenceSums<Lanes<T>>& to) {
  using V = Vector<T>;
  struct Begun {
    Difference<T, 1> gap;
    V es, et;
  };
  for (int part = 0; part < kParts; ++part) {
    const Groups<T> groups = all.part(part);
    const Shared<T, 1> row = part_of(whole, part);
    const std::int64_t tail = groups.tail();
    V terms(T(0)), slopes(T(0)), least(__builtin_inf());
    Total<V> all_terms, all_slopes;
    for_groups<T>(
        groups.count,
        [&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
          const std::int64_t from = i == tail ? i - groups.stale : i;
          const V s = load<1>(groups.s + from), t = load<1>(groups.t + from);
          return Begun{two_diff(s, t), load<1>(groups.terms + i), exp_normal(t - row.frame.mt, row.frame.k)};
        },
        [&](const Begun& begun, std::int64_t i) KDLOSS_INLINE_LAMBDA {
          const ClassNumbers<V> x = class_numbers(begun.gap, begun.es, begun.et, row);
          V slope = x.p * divergence.slope(x, row.top), term = divergence.term(x, row.tau);
          store(groups.terms + groups.apart + i, slope);
          if (__builtin_expect(run_ends(i / Groups<T>::kSize), 0)) {
            all_terms.add(terms), all_slopes.add(slopes);
            terms = slopes = V(0);
          }
          if (__builtin_expect(i == tail, 0))
            slope = only_fresh(slope, groups.stale, part), term = only_fresh(term, groups.stale, part);
          terms = terms + term, slopes = slopes + slope;
          least = min(abs(x.tau_u), least);
        });
    set_part(to.terms, part, all_terms.with(terms)), set_part(to.slopes, part, all_slopes.with(slopes));
    set_part(to.least, part, least);
  }
}

// sum (s - t)^2. Leaves s - t in the place of de, and 0 in that of es.
template <class T>
__attribute__((noinline)) Lanes<T> add_distance(const Groups<T>& groups) {
  Lanes<T> run(T(0));
  Total<Lanes<T>> total;
  groups.each([&](std::int64_t i, std::int64_t from) KDLOSS_INLINE_LAMBDA {
    Lanes<T> d = load(groups.s + from) - load(groups.t + from);
    store(groups.terms + i, Lanes<T>(T(0))), store(groups.terms + groups.apart + i, d);
    if (run_ends(i / Groups<T>::kSize)) total.add(run), run = Lanes<T>(T(0));
    if (from != i) d = only_fresh(d, groups.stale);
    run = fma(d, d, run);
  });
  return total.with_or_infinite(run);
}

// ---- Last pass: the gradient, which follows from the terms alone
template <bool Hard, bool Soft, bool Squared, class T, class Labels>
void write_terms(const Groups<T>& groups, const GradientFactors<T>& factor, int times,
                 const Labels& all_labels, Lanes<T> others, T* grad) {
  using L = Lanes<T>;
  auto labels = all_labels;
  groups.each([&](std::int64_t i, std::int64_t from) KDLOSS_INLINE_LAMBDA {
    L es(T(0)), de = es, e1 = es;
    if constexpr (Soft) es = load(groups.terms + i), de = load(groups.terms + groups.apart + i);
    if constexpr (Hard) {
      e1 = stored_e1<Squared>(groups, times, i);
      labels.at(from, [&](Mask<T> here) KDLOSS_INLINE_LAMBDA { e1 = where(here, L(0) - others, e1); });
    }
    store(grad + from, gradient<Hard, Soft>(factor, e1, de, es));
  });
}

// p1 and p, for the Hessian.
template <bool Hard, bool Soft, bool Squared, class T>
void write_probabilities(const Groups<T>& groups, int times, Lanes<T> e1_factor, Lanes<T> es_factor, T* p1,
                         T* p) {
  groups.each([&](std::int64_t i, std::int64_t from) KDLOSS_INLINE_LAMBDA {
    if constexpr (Hard) store(p1 + from, e1_factor * stored_e1<Squared>(groups, times, i));
    if constexpr (Soft) store(p + from, es_factor * load(groups.terms + i));
  });
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
