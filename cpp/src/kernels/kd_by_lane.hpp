// The loss for rows of few classes: sixteen (or eight) rows at a time, one in each lane.
//
// A tile holds the logits class by class, so that the loops run over classes and every lane follows its own
// row: no horizontal sums, and the logarithms of sixteen rows at once. A row's result does not depend on its
// neighbours.
#pragma once

#include "../kernel_table.hpp"
#include "kd_formula.hpp"
#include "lane_rows.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

// Up to here a tile stays in the first cache and the transposes cost less than a row's logarithms and sums.
constexpr std::int64_t kMostLaneClasses = 144;

// Four numbers for each class and lane. s and t become gap and et as the sums are taken.
template <class T>
struct Tile {
  T *s, *t, *de, *e1;
  Tile(T* scratch, std::int64_t classes)
      : s(scratch),
        t(s + classes * Lanes<T>::kCount),
        de(t + classes * Lanes<T>::kCount),
        e1(de + classes * Lanes<T>::kCount) {}
  static std::int64_t size(std::int64_t classes) { return 4 * classes * Lanes<T>::kCount; }
};

template <class T>
struct TileLoss {
  Lanes<T> hard = Lanes<T>(0), soft = Lanes<T>(0);
  Mask<T> careful;  // the lanes whose rows are beyond the plain path's reach
};

// Classes whose terms are added on their own before they are added to the others': a plain running sum of a
// hundred floats is off by twenty half-ulps.
constexpr std::int64_t kLaneBlock = 16;

// The sums of a tile's rows. Leaves in the tile what the gradient and the near rows need. powers says which
// rows may take powers, if any does.
template <bool Hard, bool Soft, int Power, class T>
Sums<Lanes<T>> add_tile(const Tile<T>& tile, std::int64_t classes, Lanes<T> label, const Frame<T>& frame,
                        Mask<T> powers) {
  using L = Lanes<T>;
  constexpr int n = L::kCount;
  const bool all_powers = !any(~powers);
  Sums<L> total;
  for (std::int64_t begin = 0; begin < classes; begin += kLaneBlock) {
    const std::int64_t end = begin + kLaneBlock < classes ? begin + kLaneBlock : classes;
    Sums<L> sums;
    for (std::int64_t c = begin; c < end; ++c) {
      const L s = load(tile.s + c * n), t = Soft ? load(tile.t + c * n) : s;
      Terms<T> x = plain_terms<Hard, Soft, Power>(s, t, frame);
      if (Power != 0 && __builtin_expect(!all_powers, 0))
        x.e1 = where(powers, x.e1, plain_terms<true, false, 0>(s, t, frame).e1);
      if constexpr (Hard) {
        const Mask<T> here = label == L(static_cast<T>(c));
        total.label = where(here, x.e1, total.label);
        x.e1 = where(here, L(0), x.e1);
        store(tile.e1 + c * n, x.e1);
      }
      add<Hard, Soft>(sums, x);
      if constexpr (Soft) {
        store(tile.s + c * n, x.gap);
        store(tile.t + c * n, x.et);
        store(tile.de + c * n, x.de);
      }
    }
    total.add(sums);
  }
  return total;
}

// The losses of a tile's rows and, where asked for, their gradients, which are left in tile.e1.
template <bool Hard, bool Soft, bool Grad, class T>
TileLoss<T> kd_tile(const Tile<T>& tile, std::int64_t classes, Lanes<T> label,
                    const Temperature<T>& temperature, T hard_weight, T soft_weight) {
  using L = Lanes<T>;
  constexpr int n = L::kCount;
  TileLoss<T> loss;

  L ms(-infinity<T>()), mt = ms, lowest_s(infinity<T>()), lowest_t = lowest_s, label_s(T(0));
  for (std::int64_t c = 0; c < classes; ++c) {
    const L s = load(tile.s + c * n);
    ms = max(s, ms);
    if constexpr (Hard) label_s = where(label == L(static_cast<T>(c)), s, label_s);
    if constexpr (Soft) {
      const L t = load(tile.t + c * n);
      lowest_s = min(s, lowest_s);
      mt = max(t, mt);
      lowest_t = min(t, lowest_t);
    }
  }

  const Frame<T> frame(ms, mt, temperature);
  const Mask<T> powers = mt - lowest_t <= L(Reach<T>::kTeacher);
  Sums<L> sums;
  with_power(Hard && Soft && any(powers) ? temperature.power : 0, [&](auto power) {
    constexpr int kPower = Hard && Soft ? power.value : 0;
    sums = add_tile<Hard, Soft, kPower>(tile, classes, label, frame, powers);
  });

  SoftResult<T> soft{L(0), L(0), L(0)};
  Mask<T> plain = L(0) == L(0);
  if constexpr (Hard) {
    loss.hard = hard_result(sums, ms - label_s);
    plain = plain & (L(Reach<T>::kTail) <= loss.hard);
  }
  if constexpr (Soft) {
    const L reach(Reach<T>::kSoftened * temperature.tau), tau(temperature.tau);
    plain = plain & (ms - lowest_s <= reach) & (mt - lowest_t <= reach);
    soft = soft_result(sums, tau);
    loss.soft = soft.kl * tau * tau;
    const Mask<T> far = kl_is_far(soft);
    if (any(~far)) {
      const L inverse_zt = L(1) / sums.zt, inverse_zs = L(1) / sums.zs, tau_ratio = soft.log_ratio * tau;
      L kl(T(0));
      for (std::int64_t c = 0; c < classes; ++c) {
        const L et = load(tile.t + c * n),
                difference = (load(tile.de + c * n) - soft.mean_de * et) * inverse_zs;
        kl = kl + near_kl_term(et * inverse_zt, load(tile.s + c * n) - tau_ratio, difference, tau,
                               frame.inverse_tau);
      }
      loss.soft = where(far, loss.soft, kl);
      plain = plain & (far | near_kl_is_fit(kl, soft, tau, Reach<T>::kTail));
    }
  }
  loss.careful = ~plain;

  if constexpr (Grad) {
    const GradientFactors<L> factor =
        gradient_factors(sums, soft, L(hard_weight), L(soft_weight * temperature.tau));
    for (std::int64_t c = 0; c < classes; ++c) {
      L g(T(0));
      if constexpr (Hard)
        g = factor.e1 * where(label == L(static_cast<T>(c)), L(0) - sums.others, load(tile.e1 + c * n));
      if constexpr (Soft) g = fma(factor.de, load(tile.de + c * n), fma(factor.et, load(tile.t + c * n), g));
      store(tile.e1 + c * n, g);
    }
  }
  return loss;
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
