// The loops over a row's classes that both layouts share.
//
// Their unit is the group: a Lanes of neighbouring classes of one row, or of one class of as many rows.
// Students and teachers lie group after group; so do the terms that they leave for the gradient: es, de and
// e1.
#pragma once

#include "../simd/layouts.hpp"
#include "formula.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Some groups of students, teachers and terms: es begins at terms, de and e1 each `apart` elements further.
template <class T>
struct Groups {
  static constexpr std::int64_t kSize = Lanes<T>::kCount;
  const T *s, *t;
  T* terms;
  std::int64_t apart, count;

  Groups moved(std::int64_t i) const { return {s + i, t + i, terms + i, apart, count}; }
  Groups from(std::int64_t first, std::int64_t number) const {
    Groups some = moved(first * kSize);
    some.count = number;
    return some;
  }
  // What begins with that native vector of each group.
  Groups part(int i) const { return moved(i * Vector<T>::kCount); }
};

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

// ---- The largest logits, and how far down the others go
template <class V>
struct Extent {
  V ms = V(-__builtin_inf()), mt = ms, lowest_s = V(__builtin_inf()), lowest_t = lowest_s;

  template <bool Soft>
  KDLOSS_INLINE void add(V s, V t) {
    ms = max(s, ms), lowest_s = min(s, lowest_s);
    if constexpr (Soft) mt = max(t, mt), lowest_t = min(t, lowest_t);
  }
  void add(const Extent& x) {
    ms = ms < x.ms ? x.ms : ms, lowest_s = x.lowest_s < lowest_s ? x.lowest_s : lowest_s;
    mt = mt < x.mt ? x.mt : mt, lowest_t = x.lowest_t < lowest_t ? x.lowest_t : lowest_t;
  }
  V spread_s() const { return ms - lowest_s; }
  V spread_t() const { return mt - lowest_t; }
};

// ---- p1's exponential as es^n, where each lane may have its own n (1, 2 or 4), or 0 for an exponential of
// its own
constexpr int kOwnPowers = -1;
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> own_power(Lanes<T, P> e, Lanes<T, P> n) {
  using L = Lanes<T, P>;
  return where(n == L(T(1)), e, where(n == L(T(2)), power<2>(e), power<4>(e)));
}

// Whether e1 is a power of es, which then need not be stored: a row's terms fit the first cache without it.
template <bool Soft, int Power>
constexpr bool from_es = Soft && Power > 0;
template <bool Soft, int Power, class T>
KDLOSS_INLINE Lanes<T> stored_e1(const Groups<T>& groups, std::int64_t i) {
  if constexpr (from_es<Soft, Power>)
    return power<Power>(load(groups.terms + i));
  else
    return load(groups.terms + 2 * groups.apart + i);
}

// ---- The terms and their sums
// How they come about: by plain_terms(), from gaps without their rounding errors or with; by wide_terms(); or
// by either, as lanes are in reach or not.
enum Way { kPlain, kExact, kWide, kMixed };

// The groups at element i: as many as the frame has parts for.
template <bool Soft, Way way, class T, int P>
KDLOSS_INLINE Reduced<T, P> begin_groups(const Groups<T>& groups, std::int64_t i, const Frame<T, P>& frame) {
  const Lanes<T, P> s = load<P>(groups.s + i), t = Soft ? load<P>(groups.t + i) : s;
  return {s, t, way == kPlain ? plain_gap(s, t, frame) : logit_gap(s, t, frame), frame};
}
// Their terms, which are also stored.
template <bool Hard, bool Soft, int Power, Way way, class T, int P>
KDLOSS_INLINE Terms<T, P> finish_groups(const Reduced<T, P>& begun, const Groups<T>& groups, std::int64_t i,
                                        const Frame<T, P>& frame, Lanes<T, P> own_powers,
                                        Mask<T, P> in_reach) {
  using L = Lanes<T, P>;
  constexpr int kKnownPower = Power == kOwnPowers ? 0 : Power;
  Terms<T, P> x;
  if constexpr (way == kWide)
    x = wide_terms<Hard, Soft>(begun.s, begun.t, frame);
  else
    x = plain_terms<Hard, Soft, kKnownPower>(begun, frame);
  if constexpr (Hard && Soft && Power == kOwnPowers) {
    const Mask<T, P> has_power = L(0) < own_powers;
    x.e1 = where(has_power, own_power(where(has_power, x.es, L(1)), own_powers), x.e1);
  }
  if constexpr (way == kMixed) x = where(in_reach, x, wide_terms<Hard, Soft>(begun.s, begun.t, frame));
  T* const terms = groups.terms + i;
  if constexpr (Soft) store(terms, x.es), store(terms + groups.apart, x.de);
  if constexpr (Hard && !from_es<Soft, Power>) store(terms + 2 * groups.apart, x.e1);
  return x;
}

// ---- The divergence of rows that are near their teacher, term by term
// p = a es, q = b et, and u = (gap + tau_log_ratio) / tau.
template <class T, int P = kParts>
struct NearFactors {
  Lanes<T, P> a, b, tau_log_ratio, tau;
};
template <class T>
KDLOSS_INLINE Vector<T> near_part(const Groups<T>& groups, const Frame<T, 1>& frame,
                                  const NearFactors<T, 1>& factor, Mask<T, 1> in_reach) {
  using V = Vector<T>;
  const Mask<T, 1> from_difference = et_is_es_minus_de(V(0) - factor.tau_log_ratio * frame.inverse_tau);
  const bool all_from_difference = !any(~from_difference), any_wide = any(~in_reach);
  V run(T(0));
  Total<V> kl;
  for_groups<T>(
      groups.count,
      [&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
        return logit_gap(load<1>(groups.s + i), load<1>(groups.t + i), frame) + factor.tau_log_ratio;
      },
      [&](V tau_u, std::int64_t i) KDLOSS_INLINE_LAMBDA {
        const V es = load<1>(groups.terms + i), de = load<1>(groups.terms + groups.apart + i);
        V et = es - de;
        if (__builtin_expect(!all_from_difference, 0)) {
          const V t_below = load<1>(groups.t + i) - frame.mt, zero = V(T(-Format<T>::kBias)) / frame.k;
          const V own = where(in_reach, exp_normal(t_below, frame.k), exp_to_zero(t_below, frame.k, zero));
          et = where(from_difference, et, own);
        }
        const V q = factor.b * et, difference = fma(factor.a, es, V(0) - q);
        V k = near_kl_term(q, tau_u, difference, factor.tau, frame.inverse_tau);
        if (__builtin_expect(any_wide, 0))  // what the teacher masks: q = 0, and the term is p
          k = where(et == V(0), factor.tau * factor.tau * difference, k);
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
    set_part(kl, i, near_part(groups.part(i), part_of(frame, i), own, part_of(in_reach, i)));
  }
  return kl;
}

// ---- The gradient, which follows from the terms alone
// Labelled: at a lane's label, e1 is -others.
template <bool Labelled, bool Hard, bool Soft, int Power, class T>
void write_terms(const Groups<T>& groups, const GradientFactors<T>& factor, Lanes<T> label, Lanes<T> others,
                 T* grad) {
  using L = Lanes<T>;
  constexpr std::int64_t n = L::kCount;
  L class_index(T(0));
  for (std::int64_t i = 0; i < groups.count * n; i += n) {
    const T* const terms = groups.terms + i;
    L es(T(0)), de = es, e1 = es;
    if constexpr (Soft) es = load(terms), de = load(terms + groups.apart);
    if constexpr (Hard) e1 = stored_e1<Soft, Power>(groups, i);
    if constexpr (Hard && Labelled) {
      e1 = where(label == class_index, L(0) - others, e1);
      class_index = class_index + L(1);
    }
    store(grad + i, gradient<Hard, Soft>(factor, e1, de, es));
  }
}

// p1 and p, for the Hessian.
template <bool Hard, bool Soft, int Power, class T>
void write_probabilities(const Groups<T>& groups, Lanes<T> e1_factor, Lanes<T> es_factor, T* p1, T* p) {
  constexpr std::int64_t n = Groups<T>::kSize;
  for (std::int64_t i = 0; i < groups.count * n; i += n) {
    if constexpr (Hard) store(p1 + i, e1_factor * stored_e1<Soft, Power>(groups, i));
    if constexpr (Soft) store(p + i, es_factor * load(groups.terms + i));
  }
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
