// The walk over a tile: rows of few classes, sixteen (or eight) at a time, one in each lane.
//
// A tile holds the logits class by class, so that the loops run over classes and every lane follows its own
// row: no horizontal sums, and the logarithms of sixteen rows at once. A row's result does not depend on its
// neighbours.
#pragma once

#include "../move/next_lines.hpp"
#include "../row/plan.hpp"
#include "../row/tile_rows.hpp"
#include "exact_growth.hpp"
#include "walk.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Up to here a tile stays in L1 and the transposes cost less than a row's logarithms and sums.
constexpr std::int64_t kMostLaneClasses = 256;

// Numbers for each class and lane. In the end s is the gradient and t the Hessian; g holds blended targets.
template <class T>
struct Tile {
  static constexpr int kStride = Lanes<T>::kCount;  // from class to class
  std::int64_t apart;
  T *s, *t, *terms, *g, *p1;
  Section<T>* section;
  Tile(T* scratch, std::int64_t classes)
      : apart(classes * kStride),
        s(scratch),
        t(s + apart),
        terms(t + apart),
        g(terms + 3 * apart),
        p1(g + apart),
        section(reinterpret_cast<Section<T>*>(p1 + apart)) {}
  static std::int64_t size(std::int64_t classes) {
    return 7 * classes * kStride + static_cast<std::int64_t>(sizeof(Section<T>) / sizeof(T));
  }
};

// Each lane's label, class by class; -1: none.
template <class T, int P = kParts>
struct LaneLabels {
  static constexpr bool kInLanes = true;
  Lanes<T, P> label, index = Lanes<T, P>(0);
  LaneLabels<T, 1> part(int i) const { return {part_of(label, i)}; }
  template <class F>
  KDLOSS_INLINE void at(std::int64_t, F&& f) {
    f(label == index);
    index = index + Lanes<T, P>(1);
  }
};

template <class T>
struct NextTile {
  NextLines<T> s, t, grad;
  // A tile's rows are read side by side, which no processor foresees.
  template <bool Soft>
  KDLOSS_INLINE void ask(const Groups<T>&, int part, std::int64_t i) {
    if (part != 0 || i % (NextLines<T>::kAtOnce * Groups<T>::kSize) != 0) return;
    s.template ask<false>();
    if constexpr (Soft) t.template ask<false>();
    grad.template ask<true>();
  }
};

template <class T>
class ByLane {
  using L = Lanes<T>;
  static constexpr int n = L::kCount;

 public:
  using Element = T;
  using Number = L;
  using Flag = Mask<T>;
  // A row whose rounded gaps do not suffice is computed again with exact ones. One lane of a tile cannot be,
  // so tiles always take exact gaps.
  static constexpr bool kHasRoundedGaps = false;
  static constexpr Way kBeyond = kMixed;

  ByLane(const KdCall<T>& call, const Tile<T>& tile, const TileRows<T>& rows, const NextTile<T>& next)
      : call_(call), tile_(tile), rows_(rows), next_(next) {}

  // ---- The classes: one section
  Groups<T> groups() const { return {tile_.s, tile_.t, tile_.terms, tile_.apart, call_.classes}; }
  template <class F>
  KDLOSS_INLINE void each_section(F&& f) const {
    f(*tile_.section, Classes<T, LaneLabels<T>, NextTile<T>>{groups(), {load(rows_.label)}, next_, 0});
  }
  template <class F>
  KDLOSS_INLINE void each_groups(F&& f) const {
    f(groups());
  }
  const Extent<T>& extent() const { return tile_.section->extent; }
  const Sums<L>& sums() const { return tile_.section->sums; }
  const DivergenceSums<L>& third() const { return tile_.section->third; }
  std::int64_t classes() const { return call_.classes; }
  InLanes<T> layout() const { return {call_.classes}; }

  // ---- Numbers of the rows
  static void spread(Extent<T>&) {}
  static L sum_in_row(L x) { return x; }
  static L largest_in_row(L x) { return x; }
  static L lanes(L x) { return x; }
  static Mask<T> flag(Mask<T> x) { return x; }

  // ---- What the rows need
  Mask<T> uses_hard(bool) const { return load(rows_.uses_hard) == L(1); }
  Mask<T> uses_soft(bool) const { return load(rows_.uses_soft) == L(1); }
  Mask<T> is_ordinary() const { return load(rows_.ordinary) == L(1); }
  L tau() const { return load(rows_.tau); }
  L inverse_tau() const { return load(rows_.inverse_tau); }
  L row_tau() const { return tau(); }
  L row_inverse_tau() const { return inverse_tau(); }
  L k() const { return load(rows_.k); }
  L squarings() const { return load(rows_.squarings); }
  L hard_factor() const { return load(rows_.hard_factor); }
  L soft_factor() const { return load(rows_.soft_factor); }
  L mse_factor() const {
    return TileRows<T>::narrowed(rows_.soft_weight,
                                 2 * call_.grad_scale / static_cast<double>(call_.classes));
  }
  Divergence divergence() const { return call_.divergence; }
  double beta() const { return call_.beta; }
  bool wants_hessian() const { return call_.hess.data != nullptr; }
  // The teacher's logits at the student's largest.
  L top_teacher(L ms) const {
    L t = load(tile_.t);
    for (std::int64_t i = n; i < call_.classes * n; i += n)
      t = where(load(tile_.s + i) == ms, load(tile_.t + i), t);
    return t;
  }
  L hard_curvature() const {
    return load(rows_.hard_factor) * L(static_cast<T>(call_.hess_scale / call_.grad_scale));  // once or twice
  }
  L soft_curvature() const { return TileRows<T>::narrowed(rows_.soft_weight, call_.hess_scale); }
  // How far the labels lie below the largest logits.
  static L label_below(const Extent<T>& x) { return x.ms - x.label_logit; }
  LaneLabels<T> gradient_labels(const LaneLabels<T>& x) const {
    return {where(load(rows_.keeps_p1) == L(1), L(-1), x.label)};
  }
  T* grad() const { return tile_.s; }
  T* p1() const { return tile_.p1; }
  T* p() const { return tile_.t; }

  // ---- For tiles alone
  // Rows without a soft part share the loops of those that have one. The es and slope that they leave may be
  // NaN, and so would 0 times that be in their gradient.
  void clear_unused_terms() const {
    const Mask<T> uses_soft = this->uses_soft(true);
    if (!any(~uses_soft)) return;
    for (std::int64_t i = 0; i < 2 * tile_.apart; i += n)  // es and slope
      store(tile_.terms + i, where(uses_soft, load(tile_.terms + i), L(0)));
  }
  L exact_growth(Mask<T> wanted, const Frame<T>& frame, L d) const {
    alignas(64) T exact[n];
    store(exact, d);
    const L is_wanted = where(wanted, L(1), L(0));
    for (int i = 0; i < n; ++i)
      if (lane(is_wanted, i) != 0)
        exact[i] = static_cast<T>(KDLOSS_ISA::exact_growth(tile_.s + i, tile_.t + i, n, call_.classes,
                                                           lane(frame.ms, i), lane(frame.mt, i),
                                                           rows_.tau_in_double[i]));
    return load(exact);
  }

 private:
  const KdCall<T>& call_;
  const Tile<T>& tile_;
  const TileRows<T>& rows_;
  const NextTile<T>& next_;
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
