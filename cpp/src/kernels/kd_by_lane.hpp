// The loss for rows of few classes: sixteen (or eight) rows at a time, one in each lane.
//
// A tile holds the logits class by class, so that the loops run over classes and every lane follows its own
// row: no horizontal sums, and the logarithms of sixteen rows at once. A row's result does not depend on its
// neighbours.
#pragma once

#include "blend.hpp"
#include "hessian.hpp"
#include "kd_formula.hpp"
#include "kd_plan.hpp"
#include "lane_rows.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

// Up to here a tile stays in the first cache and the transposes cost less than a row's logarithms and sums.
constexpr std::int64_t kMostLaneClasses = 192;

// p1's exponential as es^n, where each lane has its own n in 1..8.
constexpr int kOwnPowers = -1;
template <class T>
KDLOSS_INLINE Lanes<T> own_power(Lanes<T> e, Lanes<T> n) {
  const auto choose = [&](int i, Lanes<T> value, Lanes<T> other) KDLOSS_INLINE_LAMBDA {
    return where(n == Lanes<T>(static_cast<T>(i)), value, other);
  };
  const Lanes<T> low = choose(2, power<2>(e), choose(3, power<3>(e), choose(4, power<4>(e), e)));
  return choose(5, power<5>(e), choose(6, power<6>(e), choose(7, power<7>(e), choose(8, power<8>(e), low))));
}
template <int Power, class T>
KDLOSS_INLINE Lanes<T> lane_power(Lanes<T> e, Lanes<T> own) {
  if constexpr (Power == kOwnPowers)
    return own_power(e, own);
  else
    return power<Power>(e);
}
template <bool Both, class F>
KDLOSS_INLINE void with_lane_power(int power, F&& f) {
  if constexpr (Both)
    if (power == kOwnPowers) return f(PowerOf<kOwnPowers>{});
  with_power<Both>(power, f);
}

// Numbers for each class and lane. s and t become gap and es as the sums are taken, and s the gradient; g
// holds blended targets. With a Hessian, t and e1 become p and p1, and de the Hessian.
template <class T>
struct Tile {
  static constexpr int kStride = Lanes<T>::kCount;  // from class to class
  T *s, *t, *de, *e1, *g;
  Tile(T* scratch, std::int64_t classes)
      : s(scratch),
        t(s + classes * kStride),
        de(t + classes * kStride),
        e1(de + classes * kStride),
        g(e1 + classes * kStride) {}
  static std::int64_t size(std::int64_t classes) { return 5 * classes * kStride; }
};

// What the rows in a tile need: a RowPlan and a Temperature in each lane.
template <class T>
struct TileRows {
  static constexpr int kCount = Lanes<T>::kCount;
  alignas(64) T uses_hard[kCount], uses_soft[kCount];  // 1 where the row uses that part, else 0
  alignas(64) T label[kCount];                         // -1: none
  alignas(64) T tau[kCount], inverse_tau[kCount], k[kCount], power[kCount];
  alignas(64) T ordinary[kCount];  // 1 where the temperature is
  alignas(64) double weight[kCount], hard_weight[kCount], soft_weight[kCount];
  alignas(64) double target_sum[kCount], target_rest[kCount];
  alignas(64) T keeps_p1[kCount];                        // 1 or 0
  alignas(64) T hard_slope[kCount], soft_slope[kCount];  // of the reduced loss, in the kernels' parts
  int common_power;                                      // of all rows, or kOwnPowers

  void set(int i, const RowPlan& plan, double grad_scale) {
    label[i] = static_cast<T>(plan.label);
    uses_hard[i] = plan.hard, uses_soft[i] = plan.soft;
    weight[i] = plan.weight, hard_weight[i] = plan.hard_weight, soft_weight[i] = plan.soft_weight;
    target_sum[i] = plan.target_sum, target_rest[i] = plan.target_rest;
    keeps_p1[i] = plan.keeps_p1;
    hard_slope[i] = static_cast<T>(plan.hard_slope() * grad_scale);
    soft_slope[i] = static_cast<T>(plan.soft_weight * grad_scale);
  }
  RowPlan plan(int i) const {
    RowPlan plan;
    plan.counts = weight[i] > 0, plan.hard = uses_hard[i] != 0, plan.soft = uses_soft[i] != 0;
    plan.weight = weight[i], plan.hard_weight = hard_weight[i], plan.soft_weight = soft_weight[i];
    plan.label = static_cast<std::int64_t>(label[i]);
    plan.target_sum = target_sum[i], plan.target_rest = target_rest[i];
    plan.keeps_p1 = keeps_p1[i] != 0;
    return plan;
  }
  void set(int i, const Temperature<T>& temperature) {
    tau[i] = temperature.tau, inverse_tau[i] = temperature.inverse, k[i] = temperature.k;
    power[i] = static_cast<T>(temperature.power), ordinary[i] = temperature.ordinary;
    common_power = i == 0 || common_power == temperature.power ? temperature.power : kOwnPowers;
  }
};

// And what becomes of them.
template <class T>
struct TileLoss {
  alignas(64) double hard[Lanes<T>::kCount] = {}, soft[Lanes<T>::kCount] = {};
  // 1 where the row, or its Hessian alone, is beyond the plain path's reach.
  alignas(64) T careful[Lanes<T>::kCount] = {}, careful_hess[Lanes<T>::kCount] = {};
  bool any_careful = false;
};

// blend_row() for the rows of a tile; g holds their soft labels, if there are any.
template <class T>
void blend_tile(const KdCall<T>& call, const Plans<T>& plans, Tile<T> tile, TileRows<T>& rows) {
  using L = Lanes<T>;
  constexpr int n = L::kCount;
  const std::int64_t classes = call.classes;
  const bool soft_labels = call.labels.are_soft();
  const L keep(static_cast<T>(1 - call.label_smoothing));
  const L share(static_cast<T>(call.label_smoothing / static_cast<double>(classes)));
  const L label = load(rows.label);
  const Mask<T> uses_hard = load(rows.uses_hard) == L(1);
  L wanted(T(0)), last = wanted, total = wanted, top = wanted, index = wanted, g_top = wanted,
                  ms(-infinity<T>());
  for (std::int64_t c = 0; c < classes; ++c, index = index + L(1)) {
    const L s = load(tile.s + c * n), y = soft_labels ? where(uses_hard, load(tile.g + c * n), L(0))
                                                      : where(label == index, L(1), L(0));
    wanted = wanted + where(y == L(0), L(0), L(1));
    last = where(y == L(0), last, index);
    L g = fma(keep, y, share);
    if (call.class_weight != nullptr) g = g * L(static_cast<T>(call.class_weight[c]));
    store(tile.g + c * n, g);
    total = total + g;
    top = where(ms < s, index, top), g_top = where(ms < s, g, g_top);
    ms = max(s, ms);
  }
  const Mask<T> labelled = uses_hard & (L(0) < wanted);
  const Mask<T> one_class = labelled & (wanted == L(1)) & (share == L(0));
  const Mask<T> blended = labelled & ~one_class;
  const Mask<T> keeps_p1 = blended & (g_top + g_top <= total);
  L rest(T(0));
  index = L(0);
  for (std::int64_t c = 0; c < classes; ++c, index = index + L(1)) {
    const L g = load(tile.g + c * n);
    rest = rest + where(blended, wanted_gap(g, ms, load(tile.s + c * n)), L(0));
    store(tile.g + c * n, where(blended, where((index == top) & ~keeps_p1, g - total, g), L(0)));
  }
  store(rows.label, where(blended, top, where(one_class, last, L(-1))));
  store_wide(rows.target_sum, where(labelled, total, L(1)));
  store_wide(rows.target_rest, rest);
  store(rows.keeps_p1, where(keeps_p1, L(1), L(0)));
  for (int i = 0; i < n; ++i) {
    if (rows.uses_hard[i] == 0) continue;
    RowPlan plan = rows.plan(i);
    if (lane(wanted, i) == 0) {
      plan = plans.unlabelled(plan.weight);
    } else {
      // As for a class, not rounded to T.
      if (lane(wanted, i) == 1 && call.label_smoothing == 0 && call.class_weight != nullptr)
        plan.target_sum = call.class_weight[plan.label];
      plan.hard = plan.target_sum > 0 || call.both_parts;
    }
    rows.set(i, plan, call.grad_scale);
  }
}

// Classes whose terms are added on their own before they are added to the others': a plain running sum of a
// hundred floats is off by twenty half-ulps.
constexpr std::int64_t kLaneBlock = 16;

// The sums of the rows. Leaves in the tile what the gradient and the near rows need. powers says which rows
// may take powers, if any does.
template <bool Hard, bool Soft, int Power, class T>
void add_tile(Tile<T> tile, std::int64_t classes, const Frame<T>& frame, Lanes<T> label, Mask<T> powers,
              Lanes<T> own, bool keep_e1, Sums<Lanes<T>>& total) {
  using L = Lanes<T>;
  constexpr int n = Tile<T>::kStride;
  constexpr bool kOwnExponential = Hard && Power == 0;
  const bool all_powers = Power != 0 && !any(~powers);
  L class_index(T(0));
  for (std::int64_t begin = 0; begin < classes; begin += kLaneBlock) {
    const std::int64_t end = begin + kLaneBlock < classes ? begin + kLaneBlock : classes;
    Sums<L> sums;
    for (std::int64_t c = begin; c < end; ++c) {
      const L s = load(tile.s + c * n), t = Soft ? load(tile.t + c * n) : s;
      Terms<T> x = plain_terms<kOwnExponential, Soft, 0>(s, t, frame);
      if constexpr (Hard) {
        if constexpr (Power != 0)
          x.e1 = lane_power<Power>(all_powers ? x.es : where(powers, x.es, L(1)), own);
        if constexpr (Power != 0)
          if (__builtin_expect(!all_powers, 0))
            x.e1 = where(powers, x.e1, plain_terms<true, false, 0>(s, t, frame).e1);
        if (__builtin_expect(keep_e1, Power == 0)) store(tile.e1 + c * n, x.e1);
        const Mask<T> here = label == class_index;
        sums.label = where(here, x.e1, sums.label);
        x.e1 = where(here, L(0), x.e1);
        class_index = class_index + L(1);
      }
      add<Hard, Soft>(sums, x);
      if constexpr (Soft) {
        store(tile.s + c * n, x.gap);
        store(tile.t + c * n, x.es);
        store(tile.de + c * n, x.de);
      }
    }
    total.add(sums);
  }
}

// tau^2 KL, term by term.
template <class T>
Lanes<T> near_tile(Tile<T> tile, std::int64_t classes, const Frame<T>& frame, const SoftResult<T>& soft,
                   Lanes<T> share, Lanes<T> tau) {
  using L = Lanes<T>;
  constexpr int n = Tile<T>::kStride;
  const L b = soft.inverse_zt, lean = L(0) - b * share, tau_log_ratio = soft.log_ratio * tau;
  L kl(T(0));
  for (std::int64_t c = 0; c < classes; ++c) {
    const L gap = load(tile.s + c * n), es = load(tile.t + c * n), de = load(tile.de + c * n);
    kl = kl + near_kl_term(b * (es - de), gap - tau_log_ratio, fma(b, de, lean * es), tau, frame.inverse_tau);
  }
  return kl;
}

template <bool Hard, bool Soft, int Power, class T>
KDLOSS_INLINE void write_tile(Tile<T> tile, std::int64_t classes, const GradientFactors<T>& factor,
                              Lanes<T> label, Lanes<T> others, Lanes<T> own) {
  constexpr int n = Tile<T>::kStride;
  Lanes<T> class_index(T(0));
  for (std::int64_t c = 0; c < classes; ++c) {
    Lanes<T> e1(T(0)), de = e1, es = e1;
    if constexpr (Soft) de = load(tile.de + c * n), es = load(tile.t + c * n);
    if constexpr (Hard) {
      if constexpr (Power == 0)
        e1 = load(tile.e1 + c * n);
      else
        e1 = lane_power<Power>(es, own);
      e1 = where(label == class_index, Lanes<T>(0) - others, e1);
      class_index = class_index + Lanes<T>(1);
    }
    store(tile.s + c * n, gradient<Hard, Soft>(factor, e1, de, es));
  }
}

// p1 and p of the rows, in the place of e1 and es, and from them the Hessian, which is left in tile.de.
template <bool Hard, bool Soft, class T>
__attribute__((noinline)) void hessian_tile(Tile<T> tile, std::int64_t classes, Lanes<T> inverse_total,
                                            Lanes<T> inverse_zs, Lanes<T> hard_weight, Lanes<T> soft_weight) {
  using L = Lanes<T>;
  constexpr int n = L::kCount;
  for (std::int64_t c = 0; c < classes * n; c += n) {
    if constexpr (Soft) store(tile.t + c, inverse_zs * load(tile.t + c));
    if constexpr (Hard) store(tile.e1 + c, inverse_total * load(tile.e1 + c));
  }
  Peak<L> peak1{L(0), L(0)}, peak2 = peak1;
  if constexpr (Hard) peak1 = peak_of_lanes(tile.e1, classes);
  if constexpr (Soft) peak2 = peak_of_lanes(tile.t, classes);
  for (std::int64_t c = 0; c < classes; ++c) {
    L h(T(0));
    if constexpr (Hard) h = hard_weight * variance(load(tile.e1 + c * n), peak1);
    if constexpr (Soft) h = fma(soft_weight, variance(load(tile.t + c * n), peak2), h);
    store(tile.de + c * n, h);
  }
}

// The losses of a tile's rows and, where asked for, their gradients, which are left in tile.s.
template <bool Hard, bool Soft, bool Grad, class T>
void kd_tile(Tile<T> tile, const KdCall<T>& call, const TileRows<T>& rows, TileLoss<T>& loss) {
  using L = Lanes<T>;
  constexpr int n = Tile<T>::kStride;
  const Mask<T> uses_hard = load(rows.uses_hard) == L(1);
  const Mask<T> uses_soft = load(rows.uses_soft) == L(1);
  const std::int64_t classes = call.classes;
  const L label = load(rows.label), pivot = where(load(rows.keeps_p1) == L(1), L(-1), label);
  const L tau = load(rows.tau), own = load(rows.power);

  L ms(-infinity<T>()), mt = ms, lowest_s(infinity<T>()), lowest_t = lowest_s, label_s(T(0)),
                        class_index(T(0));
  for (std::int64_t c = 0; c < classes; ++c) {
    const L s = load(tile.s + c * n);
    ms = max(s, ms);
    lowest_s = min(s, lowest_s);
    if constexpr (Hard) {
      label_s = where(label == class_index, s, label_s);
      class_index = class_index + L(1);
    }
    if constexpr (Soft) {
      const L t = load(tile.t + c * n);
      mt = max(t, mt);
      lowest_t = min(t, lowest_t);
    }
  }

  const Frame<T> frame(ms, mt, load(rows.k), load(rows.inverse_tau));
  const Mask<T> powers = uses_soft & (L(0) < own) & (mt - lowest_t <= L(Reach<T>::kTeacher)) &
                         (ms - lowest_s <= L(Reach<T>::kStudent));
  const int power = Hard && Soft && any(powers) ? rows.common_power : 0;
  // Where some rows have exponentials of their own, and for the Hessian, all rows' are kept in the tile.
  const bool keep_e1 = any(~powers) || call.hess.data != nullptr;
  Sums<L> sums;
  with_lane_power<Hard && Soft>(power, [&](auto known) {
    add_tile<Hard, Soft, known.value>(tile, classes, frame, label, powers, own, keep_e1, sums);
  });

  SoftResult<T> soft{L(0), L(0), L(0)};
  L share(T(0));  // D / Zs
  Mask<T> plain = L(0) == L(0);
  if constexpr (Hard) {
    const L hard = hard_result(sums, ms - label_s);
    plain = (L(Reach<T>::kTail) <= hard) | ~uses_hard;
    if (call.hess.data != nullptr)
      store(loss.careful_hess, where(uses_hard & ~p1_is_whole(ms, lowest_s), L(1), L(0)));
    store_wide(loss.hard, where(uses_hard, hard, L(0)));
  }
  if constexpr (Soft) {
    const L reach = L(Reach<T>::kSoftened) * tau;
    Mask<T> fit = (ms - lowest_s <= reach) & (mt - lowest_t <= reach);
    soft = soft_result(sums, frame.inverse_tau);
    share = sums.d / sums.zs;
    L kl = soft.kl * tau * tau;
    const Mask<T> far = kl_is_far(soft.kl, abs(soft.log_ratio));
    if (any(~far)) {
      const L near_kl = near_tile(tile, classes, frame, soft, share, tau),
              tau_log_ratio = soft.log_ratio * tau;
      kl = where(far, kl, near_kl);
      fit = fit & (far | (near_kl_is_fit(kl, tau_log_ratio * tau_log_ratio, tau, Reach<T>::kTail) &
                          et_is_es_minus_de(soft.log_ratio)));
    }
    plain = plain & (fit | ~uses_soft);
    store_wide(loss.soft, where(uses_soft, kl, L(0)));
  }
  const Mask<T> needed = uses_hard | uses_soft;
  const Mask<T> careful = needed & ~(plain & (load(rows.ordinary) == L(1)));
  if (__builtin_expect(any(careful), 0)) {
    store(loss.careful, where(careful, L(1), L(0)));
    loss.any_careful = true;
  }

  if constexpr (Grad) {
    const L hard_slope = load(rows.hard_slope), soft_slope = load(rows.soft_slope);
    const L total = sums.others + sums.label, de = soft_slope * tau * soft.inverse_zt;
    const GradientFactors<T> factor{Hard ? hard_slope / total : L(0), where(uses_soft, de, L(0)),
                                    where(uses_soft, L(0) - de * share, L(0))};
    if (Hard && Soft && any(~uses_soft)) {
      // What rows without a teacher have left here may be NaN, and 0 times it too.
      for (std::int64_t c = 0; c < classes * n; c += n) {
        store(tile.t + c, where(uses_soft, load(tile.t + c), L(0)));
        store(tile.de + c, where(uses_soft, load(tile.de + c), L(0)));
      }
    }
    with_lane_power<Hard && Soft>(keep_e1 ? 0 : power, [&](auto known) {
      write_tile<Hard, Soft, known.value>(tile, classes, factor, pivot, sums.others, own);
    });
    if (call.hess.data != nullptr) {
      const L twice(static_cast<T>(call.hess_scale / call.grad_scale));  // or once
      hessian_tile<Hard, Soft>(tile, classes, L(1) / total, where(uses_soft, L(1) / sums.zs, L(0)),
                               hard_slope * twice, soft_slope * twice);
    }
  }
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
