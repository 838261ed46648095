// The loss for rows of few classes: sixteen (or eight) rows at a time, one in each lane.
//
// A tile holds the logits class by class, so that the loops run over classes and every lane follows its own
// row: no horizontal sums, and the logarithms of sixteen rows at once. A row's result does not depend on its
// neighbours.
#pragma once

#include "../move/next_lines.hpp"
#include "../row/blend.hpp"
#include "../row/plan.hpp"
#include "../row/tile_rows.hpp"
#include "exact_growth.hpp"
#include "hessian.hpp"
#include "terms.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Up to here a tile stays in the first cache and the transposes cost less than a row's logarithms and sums.
constexpr std::int64_t kMostLaneClasses = 256;

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

// The units that blend_tile() takes the rows' targets in, where class weights are beyond the type's range.
template <class T>
void set_target_units(const KdCall<T>& call, Tile<T> tile, TileRows<T>& rows, Lanes<T> label, Lanes<T> keep,
                      Lanes<T> share) {
  using L = Lanes<T>;
  constexpr int n = L::kCount;
  const Mask<T> uses_hard = load(rows.uses_hard) == L(1);
  alignas(64) double most[n] = {}, target[n];
  L index(T(0));
  for (std::int64_t c = 0; c < call.classes; ++c, index = index + L(1)) {
    const L y = call.labels.are_soft() ? where(uses_hard, load(tile.g + c * n), L(0))
                                       : where(label == index, L(1), L(0));
    store_wide(target, fma(keep, y, share));
    for (int i = 0; i < n; ++i) most[i] = larger(target[i] * call.class_weight[c], most[i]);
  }
  for (int i = 0; i < n; ++i) rows.target_unit[i] = power_below(most[i]);
}

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
  if (!call.weights_fit) set_target_units(call, tile, rows, label, keep, share);
  alignas(64) double inverse_unit[n];
  for (int i = 0; i < n; ++i) inverse_unit[i] = 1 / rows.target_unit[i];
  for (std::int64_t c = 0; c < classes; ++c, index = index + L(1)) {
    const L s = load(tile.s + c * n), y = soft_labels ? where(uses_hard, load(tile.g + c * n), L(0))
                                                      : where(label == index, L(1), L(0));
    wanted = wanted + where(y == L(0), L(0), where(y == L(1), L(1), L(2)));  // 1: one class, for certain
    last = where(y == L(0), last, index);
    L g = fma(keep, y, share);
    // A weight may be beyond the type's range where its class is not wanted.
    if (call.class_weight != nullptr)
      g = where(g == L(0), L(0), g * TileRows<T>::narrowed(inverse_unit, call.class_weight[c]));
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
  for (int i = 0; i < n; ++i)
    rows.target_sum[i] *= rows.target_unit[i], rows.target_rest[i] *= rows.target_unit[i];
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
__attribute__((noinline)) void add_lanes(const Groups<T>& all, const Frame<T>& frames, Lanes<T> labels,
                                         Lanes<T> own_powers, Mask<T> in_reach, const NextTile<T>& next_tile,
                                         Sums<Lanes<T>>& to) {
  using V = Vector<T>;
  NextTile<T> next = next_tile;
  for (int part = 0; part < kParts; ++part) {
    const Groups<T> groups = all.part(part);
    const Frame<T, 1> frame = part_of(frames, part);
    const V label = part_of(labels, part), powers = part_of(own_powers, part);
    const Mask<T, 1> reached = part_of(in_reach, part);
    V class_index(T(0));
    Sums<V> run;
    Totals<V> total;
    for_groups<T>(
        groups.count,
        [&](std::int64_t i) KDLOSS_INLINE_LAMBDA { return begin_groups<Soft, way>(groups, i, frame); },
        [&](const Reduced<T, 1>& begun, std::int64_t i) KDLOSS_INLINE_LAMBDA {
          if (part == 0 && i % (NextLines<T>::kAtOnce * Groups<T>::kSize) == 0) {
            // A tile's rows are read side by side, which no processor foresees.
            next.s.template ask<false>();
            if constexpr (Soft) next.t.template ask<false>();
            next.grad.template ask<true>();
          }
          Terms<T, 1> x = finish_groups<Hard, Soft, Power, way>(begun, groups, i, frame, powers, reached);
          if (__builtin_expect(run_ends(i / Groups<T>::kSize), 0)) total.add(run), run = Sums<V>();
          if constexpr (Hard) {
            const Mask<T, 1> here = label == class_index;
            run.label = where(here, x.e1, run.label);
            x.e1 = where(here, V(0), x.e1);
            class_index = class_index + V(1);
          }
          add<Hard, Soft>(run, x);
        });
    set_part(to, part, total.with(run));
  }
}

// A row in each lane.
template <bool Hard, bool Soft, class T>
class Rows {
  using L = Lanes<T>;
  static constexpr int n = Tile<T>::kStride;

 public:
  // Reads a tile twice: for the largest logits of its rows, and for their sums.
  Rows(const KdCall<T>& call, const Tile<T>& tile, const TileRows<T>& rows, const NextTile<T>& next)
      : call_(call),
        tile_(tile),
        rows_(rows),
        groups_{tile.s, tile.t, tile.terms, tile.apart, call.classes},
        uses_hard_(load(rows.uses_hard) == L(1)),
        uses_soft_(load(rows.uses_soft) == L(1)),
        label_(load(rows.label)),
        tau_(load(rows.tau)),
        extent_(look()),
        frame_(extent_.ms, extent_.mt, load(rows.k), load(rows.inverse_tau)) {
    add(next);
    if constexpr (Soft) soft_ = soft_result(sums_, frame_.inverse_tau);
  }

  void losses(TileLoss<T>& to) const {
    Mask<T> plain = load(rows_.ordinary) == L(1);
    L hard(T(0)), soft(T(0));
    if constexpr (Hard) {
      hard = hard_result(sums_, frame_.ms - label_s_);
      plain = plain & ((L(Threshold<T>::kTail) <= hard) | ~uses_hard_);
    }
    if constexpr (Soft) plain = plain & (soft_loss(soft) | ~uses_soft_);
    store_wide(to.hard, where(uses_hard_, hard, L(0)));
    store_wide(to.soft, where(uses_soft_, soft, L(0)));
    const Mask<T> careful = (uses_hard_ | uses_soft_) & ~plain;
    to.any_careful = any(careful);
    if (call_.hess.data != nullptr) store(to.careful_hess, where(probabilities_are_whole(), L(0), L(1)));
    if (call_.hess.data != nullptr || __builtin_expect(to.any_careful, 0))
      store(to.careful, where(careful, L(1), L(0)));
  }

  // The gradient, which is left in the student's place.
  void write_gradient() const {
    const L e1 = Hard ? load(rows_.hard_slope) / total() : L(0);
    L de(T(0)), es(T(0));
    if constexpr (Soft) {
      de = where(uses_soft_, load(rows_.soft_slope) * soft_.inverse_zt, L(0));
      es = where(uses_soft_, L(0) - de * (growth() / sums_.zs), L(0));
    }
    if (Hard && Soft && any(~uses_soft_)) {
      // What rows without a teacher have left here may be NaN, and 0 times it too.
      for (std::int64_t i = 0; i < call_.classes * n; i += n) {
        T* const terms = tile_.terms + i;
        store(terms, where(uses_soft_, load(terms), L(0)));
        store(terms + tile_.apart, where(uses_soft_, load(terms + tile_.apart), L(0)));
      }
    }
    const L pivot = where(load(rows_.keeps_p1) == L(1), L(-1), label_);
    with_lane_power<Hard && Soft>(power_, [&](auto power) {
      write_terms<true, Hard, Soft, power.value>(groups_, {e1, de, es}, pivot, sums_.others, tile_.s);
    });
  }

  // The Hessian, which is left in the teacher's place.
  void write_hessian() const {
    const L e1 = L(1) / total(), es = where(uses_soft_, L(1) / sums_.zs, L(0));
    with_lane_power<Hard && Soft>(power_, [&](auto power) {
      write_probabilities<Hard, Soft, power.value>(groups_, e1, es, tile_.p1, tile_.t);
    });
    const L twice(static_cast<T>(call_.hess_scale / call_.grad_scale));  // or once
    kdloss::KDLOSS_ISA::write_hessian<Hard, Soft>(
        InLanes<T>{call_.classes}, tile_.p1, tile_.t, load(rows_.hard_slope) * twice,
        TileRows<T>::narrowed(rows_.soft_weight, call_.hess_scale), tile_.t);
  }

 private:
  Extent<L> look() {
    // Locals, and a copy in the end: what belongs to the object GCC would write back at every step.
    const L label = label_;
    Extent<L> extent;
    L label_s(T(0)), class_index(T(0));
    for (std::int64_t i = 0; i < call_.classes * n; i += n) {
      const L s = load(tile_.s + i);
      extent.template add<Soft>(s, Soft ? load(tile_.t + i) : s);
      if constexpr (Hard) {
        label_s = where(label == class_index, s, label_s);
        class_index = class_index + L(1);
      }
    }
    label_s_ = label_s;
    return {extent.ms, extent.mt, extent.lowest_s, extent.lowest_t};
  }

  void add(const NextTile<T>& next) {
    const L spread_s = extent_.spread_s(), spread_t = extent_.spread_t();
    const Mask<T> student_is_whole = spread_s <= L(Threshold<T>::kHardDepth);
    const Mask<T> has_power = uses_soft_ & (spread_t <= L(Threshold<T>::kPowerDepth)) & student_is_whole;
    powers_ = where(has_power, load(rows_.power), L(0));
    in_reach_ = (uses_soft_ & (spread_s <= L(Threshold<T>::kStudentDepth) * tau_) &
                 (spread_t <= L(Threshold<T>::kTeacherDepth) * tau_)) |
                (~uses_soft_ & student_is_whole);
    if (Hard && Soft && any(L(0) < powers_)) power_ = any(~has_power) ? kOwnPowers : rows_.common_power;
    if (__builtin_expect(any(~in_reach_), 0)) {
      power_ = kOwnPowers;
      add_lanes<Hard, Soft, kOwnPowers, kMixed>(groups_, frame_, label_, powers_, in_reach_, next, sums_);
      return;
    }
    // With rounding errors: where only some rows need them, a row of its own can be read again, a lane
    // cannot.
    with_lane_power<Hard && Soft>(power_, [&](auto power) {
      add_lanes<Hard, Soft, power.value, kExact>(groups_, frame_, label_, powers_, in_reach_, next, sums_);
    });
  }

  L total() const { return sums_.others + sums_.label; }  // of e1

  // D, for the gradient.
  L growth() const {
    const L depth = extent_.spread_t() * frame_.inverse_tau;
    Mask<T> wanted = uses_soft_ & may_balance<T>(static_cast<T>(call_.classes), depth, sums_.zs);
    if (!any(wanted)) return sums_.d;
    Balance<T> balance;
    const L ratio = sums_.d / sums_.zs;
    for (std::int64_t i = 0; i < call_.classes * n; i += n)
      balance.add(load(tile_.terms + i), load(tile_.terms + tile_.apart + i), ratio);
    wanted = wanted & balances(balance.growth, balance.most, depth, sums_.zs);
    alignas(64) T d[n];
    store(d, sums_.d);
    const L is_wanted = where(wanted, L(1), L(0));
    for (int i = 0; any(wanted) && i < n; ++i)
      if (lane(is_wanted, i) != 0)
        d[i] = static_cast<T>(exact_growth(tile_.s + i, tile_.t + i, n, call_.classes, lane(frame_.ms, i),
                                           lane(frame_.mt, i), rows_.exact_tau[i]));
    return load(d);
  }

  Mask<T> probabilities_are_whole() const {
    const L spread_s = extent_.spread_s(), spread_t = extent_.spread_t();
    const L rounded = spread_t + L(2) * max(spread_s, spread_t);
    const L unit = where(L(0) < powers_, L(1), tau_);
    return in_reach_ & ((spread_s <= L(Threshold<T>::kHardDepth)) | ~uses_hard_) &
           ((rounded <= L(Threshold<T>::kHessianDepth) * unit) | ~uses_soft_);
  }

  // Where the divergence is within the plain path's reach.
  Mask<T> soft_loss(L& soft) const {
    soft = soft_.kl * tau_ * tau_;
    const Mask<T> fit = abs(soft) < L(infinity<T>());  // not NaN, nor beyond the type's range
    const Mask<T> far = kl_is_far(soft_.kl, abs(soft_.log_ratio));
    if (!any(~far)) return fit;
    const L tau_log_ratio = L(0) - soft_.log_ratio * tau_;
    const NearFactors<T> factor{L(1) / sums_.zs, soft_.inverse_zt, tau_log_ratio, tau_};
    soft = where(far, soft, near_terms(groups_, frame_, factor, in_reach_));
    return fit & (far | (in_reach_ & are_equal(sums_, soft)) |
                  near_kl_is_fit(soft, tau_log_ratio * tau_log_ratio, tau_, Threshold<T>::kTail));
  }

  const KdCall<T>& call_;
  const Tile<T>& tile_;
  const TileRows<T>& rows_;
  const Groups<T> groups_;
  const Mask<T> uses_hard_, uses_soft_;
  const L label_, tau_;
  L label_s_;
  const Extent<L> extent_;
  const Frame<T> frame_;
  L powers_;
  Mask<T> in_reach_;
  int power_ = 0;
  Sums<L> sums_;
  SoftResult<T> soft_;
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
