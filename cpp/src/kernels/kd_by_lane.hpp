// The loss for rows of few classes: sixteen (or eight) rows at a time, one in each lane.
//
// A tile holds the logits class by class, so that the loops run over classes and every lane follows its own
// row: no horizontal sums, and the logarithms of sixteen rows at once. A row's result does not depend on its
// neighbours.
#pragma once

#include "blend.hpp"
#include "hessian.hpp"
#include "kd_plan.hpp"
#include "kd_terms.hpp"
#include "next_lines.hpp"
#include "tile_rows.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Up to here a tile stays in the first cache and the transposes cost less than a row's logarithms and sums.
constexpr std::int64_t kMostLaneClasses = 224;

template <bool Both, class F>
KDLOSS_INLINE void with_lane_power(int power, F&& f) {
  if constexpr (Both)
    if (power == kOwnPowers) return f(Constant<kOwnPowers>{});
  with_power<Both>(power, f);
}

// Numbers for each class and lane. In the end s is the gradient and t the Hessian; g holds blended targets.
template <class T>
struct Tile {
  static constexpr int kStride = Lanes<T>::kCount;  // from class to class
  std::int64_t apart;
  T *s, *t, *terms, *g, *p1;
  Tile(T* scratch, std::int64_t classes)
      : apart(classes * kStride),
        s(scratch),
        t(s + apart),
        terms(t + apart),
        g(terms + 3 * apart),
        p1(g + apart) {}
  static std::int64_t size(std::int64_t classes) { return 7 * classes * kStride; }
};

// What becomes of the rows.
template <class T>
struct TileLoss {
  alignas(64) double hard[Lanes<T>::kCount], soft[Lanes<T>::kCount];
  // 1 where the row, or its Hessian alone, is beyond the plain path's reach. Set where any is (any_careful),
  // or where there is a Hessian.
  alignas(64) T careful[Lanes<T>::kCount], careful_hess[Lanes<T>::kCount];
  bool any_careful = false;
  void set_zero() {
    for (int i = 0; i < Lanes<T>::kCount; ++i) hard[i] = soft[i] = 0;
  }
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
  L wanted(T(0)), last = wanted, run = wanted, top = wanted, index = wanted, g_top = wanted,
                  ms(-infinity<T>());
  Total<L> total_of_runs;
  for (std::int64_t c = 0; c < classes; ++c, index = index + L(1)) {
    const L s = load(tile.s + c * n), y = soft_labels ? where(uses_hard, load(tile.g + c * n), L(0))
                                                      : where(label == index, L(1), L(0));
    wanted = wanted + where(y == L(0), L(0), L(1));
    last = where(y == L(0), last, index);
    L g = fma(keep, y, share);
    if (call.class_weight != nullptr) g = g * L(static_cast<T>(call.class_weight[c]));
    store(tile.g + c * n, g);
    if (run_ends(c)) total_of_runs.add(run), run = L(0);
    run = run + g;
    top = where(ms < s, index, top), g_top = where(ms < s, g, g_top);
    ms = max(s, ms);
  }
  const L total = total_of_runs.with(run);
  const Mask<T> labelled = uses_hard & (L(0) < wanted);
  const Mask<T> one_class = labelled & (wanted == L(1)) & (share == L(0));
  const Mask<T> blended = labelled & ~one_class;
  const Mask<T> keeps_p1 = blended & (g_top + g_top <= total);
  Total<L> rest;
  run = index = L(0);
  for (std::int64_t c = 0; c < classes; ++c, index = index + L(1)) {
    const L g = load(tile.g + c * n);
    if (run_ends(c)) rest.add(run), run = L(0);
    run = run + where(blended, wanted_gap(g, ms, load(tile.s + c * n)), L(0));
    store(tile.g + c * n, where(blended, where((index == top) & ~keeps_p1, g - total, g), L(0)));
  }
  store(rows.label, where(blended, top, where(one_class, last, L(-1))));
  store_wide(rows.target_sum, where(labelled, total, L(1)));
  store_wide(rows.target_rest, rest.with_or_infinite(run));
  store(rows.keeps_p1, where(keeps_p1, L(1), L(0)));
  if (call.class_weight == nullptr && !any(uses_hard & ~(labelled & (L(0) < total)))) {
    rows.set_hard_slopes(call.grad_scale);
    return;
  }
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

// The sums of all rows: each lane with its own label and perhaps its own power.
template <bool Hard, bool Soft, int Power, Way way, class T>
__attribute__((noinline)) void add_lanes(const Groups<T>& given, const Frame<T>& given_frame, Lanes<T> label,
                                         Lanes<T> own_powers, Mask<T> in_reach, const NextTile<T>& next_tile,
                                         Sums<Lanes<T>>& to) {
  using L = Lanes<T>;
  const Groups<T> groups = given;
  const Frame<T> frame = given_frame;
  NextTile<T> next = next_tile;
  L class_index(T(0));
  Sums<L> run;
  Totals<L> total;
  for_groups<T>(groups.count, [&](auto parts, std::int64_t i) KDLOSS_INLINE_LAMBDA {
    constexpr int P = parts.value;
    if (i % (NextLines<T>::kAtOnce * L::kCount) == 0) {
      // A tile's rows are read side by side, which no processor foresees.
      next.s.template ask<false>();
      if constexpr (Soft) next.t.template ask<false>();
      next.grad.template ask<true>();
    }
    if (__builtin_expect(run_ends(i / L::kCount), 0)) total.add(run), run = Sums<L>();
    const Frame<T, P> f = repeated<P>(frame);
    const Terms<T, P> several = finish_groups<Hard, Soft, Power, way>(
        begin_groups<Soft, way>(groups, i, f), groups, i, f, repeated<P>(own_powers), repeated<P>(in_reach));
    for (int j = 0; j < P / kParts; ++j) {
      Terms<T> x = section(several, j);
      if constexpr (Hard) {
        const Mask<T> here = label == class_index;
        run.label = where(here, x.e1, run.label);
        x.e1 = where(here, L(0), x.e1);
        class_index = class_index + L(1);
      }
      add<Hard, Soft>(run, x);
    }
  });
  to = total.with(run);  // not the result: GCC would build that in memory, addition by addition
}

// The losses of a tile's rows and, where asked for, their gradients, which are left in tile.s.
template <bool Hard, bool Soft, class T>
void kd_tile(Tile<T> tile, const KdCall<T>& call, const TileRows<T>& rows, const NextTile<T>& next,
             TileLoss<T>& loss) {
  using L = Lanes<T>;
  constexpr int n = Tile<T>::kStride;
  const Mask<T> uses_hard = load(rows.uses_hard) == L(1);
  const Mask<T> uses_soft = load(rows.uses_soft) == L(1);
  const std::int64_t classes = call.classes;
  const L label = load(rows.label), pivot = where(load(rows.keeps_p1) == L(1), L(-1), label);
  const L tau = load(rows.tau);

  Extent<L> extent;
  L label_s(T(0)), class_index(T(0));
  for (std::int64_t c = 0; c < classes; ++c) {
    const L s = load(tile.s + c * n);
    extent.template add<Soft>(s, Soft ? load(tile.t + c * n) : s);
    if constexpr (Hard) {
      label_s = where(label == class_index, s, label_s);
      class_index = class_index + L(1);
    }
  }

  const Groups<T> groups{tile.s, tile.t, tile.terms, tile.apart, classes};
  const Frame<T> frame(extent.ms, extent.mt, load(rows.k), load(rows.inverse_tau));
  const L spread_s = extent.spread_s(), spread_t = extent.spread_t(), reach = L(Reach<T>::kSoftened) * tau,
          teacher_reach = L(Reach<T>::kTeacherSoftened) * tau;
  const Mask<T> has_power =
      uses_soft & (spread_t <= L(Reach<T>::kTeacher)) & (spread_s <= L(Reach<T>::kStudent));
  const L powers = where(has_power, load(rows.power), L(0));
  const Mask<T> in_reach = (uses_soft & (spread_s <= reach) & (spread_t <= teacher_reach)) |
                           (~uses_soft & (spread_s <= L(Reach<T>::kStudent)));
  int power = 0;
  if (Hard && Soft && any(L(0) < powers)) power = any(~has_power) ? kOwnPowers : rows.common_power;
  Sums<L> sums;
  if (__builtin_expect(any(~in_reach), 0)) {
    power = kOwnPowers;
    add_lanes<Hard, Soft, kOwnPowers, kMixed>(groups, frame, label, powers, in_reach, next, sums);
  } else {
    // With rounding errors: where only some rows need them, a row of its own can be read again, a lane
    // cannot.
    with_lane_power<Hard && Soft>(power, [&](auto known) {
      add_lanes<Hard, Soft, known.value, kExact>(groups, frame, label, powers, in_reach, next, sums);
    });
  }

  if (call.hess.data != nullptr) {
    const L rounded = spread_t + L(2) * max(spread_s, spread_t);
    const Mask<T> whole = in_reach & ((spread_s <= L(Reach<T>::kStudent)) | ~uses_hard) &
                          ((rounded <= L(Reach<T>::kWhole) * where(L(0) < powers, L(1), tau)) | ~uses_soft);
    store(loss.careful_hess, where(whole, L(0), L(1)));
  }
  SoftResult<T> soft{L(0), L(0), L(0)};
  L share(T(0));  // D / Zs
  Mask<T> plain = L(0) == L(0);
  if constexpr (Hard) {
    const L hard = hard_result(sums, frame.ms - label_s);
    plain = (L(Reach<T>::kTail) <= hard) | ~uses_hard;
    store_wide(loss.hard, where(uses_hard, hard, L(0)));
  } else {
    store_wide(loss.hard, L(0));
  }
  if constexpr (Soft) {
    soft = soft_result(sums, frame.inverse_tau);
    share = sums.d / sums.zs;
    L kl = soft.kl * tau * tau;
    Mask<T> fit = abs(kl) < L(infinity<T>());  // not NaN, nor beyond the type's range
    const Mask<T> far = kl_is_far(soft.kl, abs(soft.log_ratio));
    if (any(~far)) {
      const L b = soft.inverse_zt, tau_log_ratio = L(0) - soft.log_ratio * tau;
      kl = where(far, kl, near_terms(groups, frame, {L(1) / sums.zs, b, tau_log_ratio, tau}, in_reach));
      fit = fit & (far | (in_reach & are_equal(sums, kl)) |
                   near_kl_is_fit(kl, tau_log_ratio * tau_log_ratio, tau, Reach<T>::kTail));
    }
    plain = plain & (fit | ~uses_soft);
    store_wide(loss.soft, where(uses_soft, kl, L(0)));
  } else {
    store_wide(loss.soft, L(0));
  }
  const Mask<T> needed = uses_hard | uses_soft;
  const Mask<T> careful = needed & ~(plain & (load(rows.ordinary) == L(1)));
  if (call.hess.data != nullptr || __builtin_expect(any(careful), 0)) {
    store(loss.careful, where(careful, L(1), L(0)));
    loss.any_careful = any(careful);
  }

  if (call.grad.data != nullptr) {
    const L hard_slope = load(rows.hard_slope), soft_slope = load(rows.soft_slope);
    const L total = sums.others + sums.label, de = soft_slope * soft.inverse_zt;
    const GradientFactors<T> factor{Hard ? hard_slope / total : L(0), where(uses_soft, de, L(0)),
                                    where(uses_soft, L(0) - de * share, L(0))};
    if (Hard && Soft && any(~uses_soft)) {
      // What rows without a teacher have left here may be NaN, and 0 times it too.
      for (std::int64_t c = 0; c < classes * n; c += n) {
        T* const es = tile.terms + c;
        store(es, where(uses_soft, load(es), L(0)));
        store(es + tile.apart, where(uses_soft, load(es + tile.apart), L(0)));
      }
    }
    with_lane_power<Hard && Soft>(power, [&](auto known) {
      write_terms<true, Hard, Soft, known.value>(groups, factor, pivot, sums.others, tile.s);
    });
    if (call.hess.data != nullptr) {
      const L twice(static_cast<T>(call.hess_scale / call.grad_scale));  // or once
      with_lane_power<Hard && Soft>(power, [&](auto known) {
        write_probabilities<Hard, Soft, known.value>(groups, L(1) / total,
                                                     where(uses_soft, L(1) / sums.zs, L(0)), tile.p1, tile.t);
      });
      write_hessian<Hard, Soft>(InLanes<T>{classes}, tile.p1, tile.t, hard_slope * twice,
                                TileRows<T>::narrowed(rows.soft_weight, call.hess_scale), tile.t);
    }
  }
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
