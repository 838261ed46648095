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

// Numbers for each class and lane. s and t become gap and es as the sums are taken, and s the gradient.
template <class T>
struct Tile {
  static constexpr int kStride = Lanes<T>::kCount;  // from class to class
  T *s, *t, *de, *e1;
  Tile(T* scratch, std::int64_t classes)
      : s(scratch), t(s + classes * kStride), de(t + classes * kStride), e1(de + classes * kStride) {}
  static std::int64_t size(std::int64_t classes) { return 4 * classes * kStride; }
};

// What the rows in a tile need. label is -1 and a weight 0 where there is none.
template <class T>
struct TileRows {
  static constexpr int kCount = Lanes<T>::kCount;
  alignas(64) T uses_hard[kCount] = {}, uses_soft[kCount] = {};  // 1 where the row uses that part
  alignas(64) double hard_weight[kCount] = {}, soft_weight[kCount] = {};
  alignas(64) T label[kCount];
};

// And what becomes of them.
template <class T>
struct TileLoss {
  alignas(64) double hard[Lanes<T>::kCount] = {}, soft[Lanes<T>::kCount] = {};
  alignas(64) T careful[Lanes<T>::kCount] = {};  // 1 where the row is beyond the plain path's reach
  bool any_careful = false;
};

// Classes whose terms are added on their own before they are added to the others': a plain running sum of a
// hundred floats is off by twenty half-ulps.
constexpr std::int64_t kLaneBlock = 16;

// The sums of the rows. Leaves in the tile what the gradient and the near rows need. powers says which rows
// may take powers, if any does.
template <bool Hard, bool Soft, int Power, class T>
Sums<Lanes<T>> add_tile(const Tile<T>& tile, std::int64_t classes, const Frame<T>& frame, Lanes<T> label,
                        Mask<T> powers) {
  using L = Lanes<T>;
  constexpr int n = Tile<T>::kStride;
  constexpr bool kOwnExponential = Hard && Power == 0;
  const bool all_powers = Power != 0 && !any(~powers);
  Sums<L> total;
  L class_index(T(0));
  for (std::int64_t begin = 0; begin < classes; begin += kLaneBlock) {
    const std::int64_t end = begin + kLaneBlock < classes ? begin + kLaneBlock : classes;
    Sums<L> sums;
    for (std::int64_t c = begin; c < end; ++c) {
      const L s = load(tile.s + c * n), t = Soft ? load(tile.t + c * n) : s;
      Terms<T> x = plain_terms<kOwnExponential, Soft, 0>(s, t, frame);
      if constexpr (Hard) {
        if constexpr (Power != 0) x.e1 = power<Power>(all_powers ? x.es : where(powers, x.es, L(1)));
        if (__builtin_expect(!all_powers, Power == 0)) {
          if constexpr (Power != 0) x.e1 = where(powers, x.e1, plain_terms<true, false, 0>(s, t, frame).e1);
          store(tile.e1 + c * n, x.e1);
        }
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
  return total;
}

// tau^2 KL, term by term.
template <class T>
Lanes<T> near_tile(const Tile<T>& tile, std::int64_t classes, const Frame<T>& frame,
                   const SoftResult<T>& soft, Lanes<T> share, Lanes<T> tau) {
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
void write_tile(const Tile<T>& tile, std::int64_t classes, const GradientFactors<T>& factor, Lanes<T> label,
                Lanes<T> others, bool own_e1) {
  constexpr int n = Tile<T>::kStride;
  Lanes<T> class_index(T(0));
  for (std::int64_t c = 0; c < classes; ++c) {
    Lanes<T> e1(T(0)), de = e1, es = e1;
    if constexpr (Soft) de = load(tile.de + c * n), es = load(tile.t + c * n);
    if constexpr (Hard) {
      e1 = Power == 0 || own_e1 ? load(tile.e1 + c * n) : power<Power>(es);
      e1 = where(label == class_index, Lanes<T>(0) - others, e1);
      class_index = class_index + Lanes<T>(1);
    }
    store(tile.s + c * n, gradient<Hard, Soft>(factor, e1, de, es));
  }
}

// The losses of a tile's rows and, where asked for, their gradients, which are left in tile.s.
template <bool Hard, bool Soft, bool Grad, class T>
void kd_tile(const Tile<T>& tile, std::int64_t classes, const TileRows<T>& rows,
             const Temperature<T>& temperature, double grad_scale, TileLoss<T>& loss) {
  using L = Lanes<T>;
  constexpr int n = Tile<T>::kStride;
  const Mask<T> uses_hard = load(rows.uses_hard) == L(1);
  const Mask<T> uses_soft = load(rows.uses_soft) == L(1);
  const L label = load(rows.label);

  L ms(-infinity<T>()), mt = ms, lowest_s(infinity<T>()), lowest_t = lowest_s, label_s(T(0)),
                        class_index(T(0));
  for (std::int64_t c = 0; c < classes; ++c) {
    const L s = load(tile.s + c * n);
    ms = max(s, ms);
    if constexpr (Hard) {
      label_s = where(label == class_index, s, label_s);
      class_index = class_index + L(1);
    }
    if constexpr (Soft) {
      const L t = load(tile.t + c * n);
      lowest_s = min(s, lowest_s);
      mt = max(t, mt);
      lowest_t = min(t, lowest_t);
    }
  }

  const Frame<T> frame(ms, mt, temperature);
  const Mask<T> powers =
      uses_soft & (mt - lowest_t <= L(Reach<T>::kTeacher)) & (ms - lowest_s <= L(Reach<T>::kStudent));
  const int power = Hard && Soft && any(powers) ? temperature.power : 0;
  Sums<L> sums;
  with_power<Hard && Soft>(power, [&](auto known) {
    sums = add_tile<Hard, Soft, known.value>(tile, classes, frame, label, powers);
  });

  const L tau(temperature.tau);
  SoftResult<T> soft{L(0), L(0), L(0)};
  L share(T(0));  // D / Zs
  Mask<T> plain = L(0) == L(0);
  if constexpr (Hard) {
    const L hard = hard_result(sums, ms - label_s);
    plain = (L(Reach<T>::kTail) <= hard) | ~uses_hard;
    store_wide(loss.hard, where(uses_hard, hard, L(0)));
  }
  if constexpr (Soft) {
    const L reach(Reach<T>::kSoftened * temperature.tau);
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
  const Mask<T> careful = temperature.ordinary ? needed & ~plain : needed;
  if (__builtin_expect(any(careful), 0)) {
    store(loss.careful, where(careful, L(1), L(0)));
    loss.any_careful = true;
  }

  if constexpr (Grad) {
    const L scale(static_cast<T>(grad_scale));
    const L soft_weight = load_narrow<T>(rows.soft_weight) * scale * tau;
    const L hard_weight = load_narrow<T>(rows.hard_weight) * scale;
    const L de = soft_weight * soft.inverse_zt;
    const GradientFactors<T> factor{Hard ? hard_weight / (sums.others + sums.label) : L(0), de,
                                    L(0) - de * share};
    with_power<Hard && Soft>(power, [&](auto known) {
      write_tile<Hard, Soft, known.value>(tile, classes, factor, label, sums.others, any(~powers));
    });
  }
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
