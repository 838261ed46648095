// The loss of one row in double, whatever the type of the arrays: for rows that no other path takes (infinite
// logits, NaN, temperatures at the extremes, losses made of mere tails, a student that masks what its teacher
// hardly wants), and for every divergence but the default.
//
// Four passes: extents, exponentials, losses, gradient. In the third each class has exact numbers q, p - q
// and u; the divergences are functions of these (divergences.hpp).
#pragma once

#include <type_traits>

#include "../move/staging.hpp"
#include "../row/plan.hpp"
#include "../simd/layouts.hpp"
#include "divergences.hpp"
#include "hessian.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// A row's logits as doubles, filled up to whole Lanes by classes that both mask, which add exactly 0; and
// what each pass leaves for the next.
struct CarefulRow {
  std::int64_t classes;
  double *s, *t;
  double *es, *et, *gap, *e1;
  double* grad;
  double *p1, *p;  // for the Hessian

  static constexpr std::int64_t padded(std::int64_t classes) {
    constexpr std::int64_t n = Lanes<double>::kCount;
    return (classes + n - 1) / n * n;
  }
  static std::int64_t size(std::int64_t classes) { return 9 * padded(classes); }
  CarefulRow(double* scratch, std::int64_t classes_) : classes(classes_) {
    double** const arrays[] = {&s, &t, &es, &et, &gap, &e1, &grad, &p1, &p};
    for (double** array : arrays) *array = scratch, scratch += padded(classes);
  }
  Span columns() const { return {0, padded(classes)}; }
};

// A number that all classes of a row share.
using RowNumber = Lanes<double>;

// Calls body(c) for each Lanes of classes, and adds up what it returns: in blocks, for the digits.
template <class Body>
KDLOSS_INLINE Lanes<double> sum_over(const CarefulRow& row, Body&& body) {
  Lanes<double> total(0.0);
  for_blocks(row.columns().end, [&](Span block) KDLOSS_INLINE_LAMBDA {
    Lanes<double> in_block(0.0);
    for_columns<double>(
        block, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA { in_block = in_block + body(c); });
    total = total + in_block;
  });
  return total;
}

// Hard says whether there is a hard part; D is the divergence, or void without a soft part.
template <bool Hard, class D>
class CarefulLoss {
  using L = Lanes<double>;
  static constexpr bool kSoft = !std::is_void_v<D>;
  static constexpr bool kDistance = std::is_same_v<D, LogitDistance>;
  static constexpr bool kSoftmax = kSoft && !kDistance;  // whether the soft part has one, and a temperature

 public:
  CarefulLoss(const CarefulRow& row, const RowPlan& plan) : row_(row), plan_(plan) {}

  RowParts losses(double tau, double beta, double grad_scale) {
    find_extents();
    find_exponentials(tau);
    RowParts parts;
    if constexpr (Hard) parts.hard = first(hard_result(sums_, ms_ - L(row_.s[plan_.label])));
    if constexpr (kSoftmax) {
      parts.soft = soft_loss(beta, 1);
      // Terms that underflow where tau^2 D does not: once more, with headroom.
      constexpr double kTiny = 1e-270, kRoom = 1 / Format<double>::kHeadroom;
      if (parts.soft < kTiny && tau < 1e100) parts.soft = soft_loss(beta, kRoom);
    }
    if constexpr (kDistance) parts.soft = distance();
    write_gradient(grad_scale);
    return parts;
  }

  // p1 and p, for the Hessian.
  void write_probabilities() const {
    each([&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      if constexpr (Hard) store(row_.p1 + c, load(row_.e1 + c) / (sums_.others + sums_.label));
      if constexpr (kSoftmax) store(row_.p + c, load(row_.es + c) / sums_.zs);
    });
  }

 private:
  template <class Body>
  KDLOSS_INLINE void each(Body&& body) const {
    for_columns<double>(row_.columns(), [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA { body(c); });
  }

  // ---- First pass: the largest logits, and the largest magnitude of the finite ones
  void find_extents() {
    L ms(-infinity<double>()), mt = ms, most(0.0);
    const auto finite = [](L x) KDLOSS_INLINE_LAMBDA {
      return where(abs(x) < L(infinity<double>()), abs(x), L(0.0));
    };
    each([&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      const L s = load(row_.s + c), t = kSoft ? load(row_.t + c) : s;
      ms = max(s, ms), mt = max(t, mt), most = max(max(finite(s), finite(t)), most);
    });
    ms_ = L(largest(ms)), mt_ = L(largest(mt)), most_ = largest(most);
    top_ = 0;
    if constexpr (kSoftmax) {
      while (top_ + L::kCount < row_.classes && !any(load(row_.s + top_) == ms_)) top_ += L::kCount;
      while (top_ + 1 < row_.classes && row_.s[top_] != first(ms_)) ++top_;
    }
  }

  // ---- Second pass: the exponentials and their sums. es and et are 2^kHeadroomExponent times themselves, so
  // that tau q keeps its digits where q underflows.
  void find_exponentials(double tau) {
    using F = Format<double>;
    // A quarter of all logits, and of tau, where a difference could leave the type's range.
    quarter_ = kSoftmax && most_ > F::kLargest / 8 ? 0.25 : 1;
    const Temperature<double> temperature(tau * quarter_);
    const L zero(temperature.zero), scale(quarter_), zero1(zero_at<double>(kLog2E, F::kHeadroomExponent));
    tau_ = L(temperature.tau);
    frame_ = Frame<double>(ms_ * scale, mt_ * scale, temperature);
    Sums<L> all;
    double label_e1 = 0;
    for_blocks(row_.columns().end, [&](Span block) KDLOSS_INLINE_LAMBDA {
      Sums<L> in_block;
      for_columns<double>(block, [&](std::int64_t c, std::int64_t) KDLOSS_INLINE_LAMBDA {
        const L s = load(row_.s + c);
        Terms<double> x;
        if constexpr (kSoftmax) {
          x = any_terms(s * scale, load(row_.t + c) * scale, frame_, zero, F::kHeadroomExponent);
          store(row_.es + c, x.es), store(row_.et + c, x.et), store(row_.gap + c, x.gap);
        }
        if constexpr (Hard) {
          x.e1 = exp_any(s - ms_, L(kLog2E), zero1);
          store(row_.e1 + c, x.e1);
          if (holds_label(c)) {
            label_e1 = lane(x.e1, plan_.label - c);
            x.e1 = with_lane(x.e1, plan_.label - c, 0.0);
          }
        }
        add<Hard, kSoftmax>(in_block, x);
      });
      all.add(in_block);
    });
    sums_.zt = sum(all.zt), sums_.zs = sum(all.zs), sums_.d = sum(all.d);
    sums_.others = sum(all.others), sums_.label = label_e1;
    if constexpr (kSoftmax) log_ratio_ = soft_result(sums_, frame_.inverse_tau).log_ratio;
  }
  bool holds_label(std::int64_t c) const {
    return static_cast<std::uint64_t>(plan_.label - c) < static_cast<std::uint64_t>(L::kCount);
  }

  // ---- Third pass: the soft loss. Leaves tau p (f - f of the top class) for the gradient, or tau (p - q).
  KDLOSS_INLINE ClassNumbers numbers(L s, L t, L es, L et, L gap, L room) const {
    ClassNumbers x;
    const L minus_inf(-infinity<double>());
    x.wanted_only = (s == minus_inf) & (minus_inf < t), x.unwanted = (t == minus_inf) & (minus_inf < s);
    x.q = et * room * tau_over_zt_, x.p = es * room * tau_over_zs_;
    x.u = gap * frame_.inverse_tau - log_ratio_, x.tau_u = gap - log_ratio_ * tau_;
    x.u_is_small = abs(x.u) < L(1.0);
    x.difference =
        where(x.u_is_small, x.q * fma(x.u * x.u, expm1_remainder_over_square(x.u), x.u), x.p - x.q);
    const L scale(quarter_), step = logit_gap(s * scale, t * scale, top_frame_) * frame_.inverse_tau;
    x.step = where(abs(step) < L(infinity<double>()), step, L(0.0));
    return x;
  }
  KDLOSS_INLINE ClassNumbers numbers_at(std::int64_t c, L room) const {
    return numbers(load(row_.s + c), load(row_.t + c), load(row_.es + c), load(row_.et + c),
                   load(row_.gap + c), room);
  }
  double soft_loss(double beta, double headroom) {
    const D divergence(beta);
    const L room(headroom);
    tau_over_zs_ = tau_ / sums_.zs, tau_over_zt_ = tau_ / sums_.zt;
    const double top_t = row_.t[top_];
    top_frame_ =
        Frame<double>(ms_ * L(quarter_), (top_t > -infinity<double>() ? L(top_t) : mt_) * L(quarter_),
                      frame_.k, frame_.inverse_tau);
    const auto own = [&](const double* x) { return L(x[top_]); };
    const L top_slope =
        divergence.slope(numbers(own(row_.s), own(row_.t), own(row_.es), own(row_.et), own(row_.gap), room));
    L mean(0.0);
    const L total = sum_over(row_, [&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      const ClassNumbers x = numbers_at(c, room);
      L slope = x.difference;
      if constexpr (!D::kIsDifference) {
        slope = zero_where(x.p == L(0.0), x.p * (divergence.slope(x) - top_slope));
        mean = mean + slope;
      }
      store(row_.grad + c, slope / room);
      return divergence.term(x, tau_);
    });
    const double zero = first(log_ratio_ - log_ratio_);  // NaN where a whole row is masked
    const double loss = (sum(total) + zero) / headroom / (quarter_ * quarter_);
    mean_slope_ =
        L(sum(mean)) / (tau_ * room) + L(loss == loss ? 0.0 : loss);  // NaN in one class is NaN in all
    return loss;
  }

  // The mean square of s - t, which may leave the type's range on the way; 0 where both are masked.
  double distance() {
    const double unit = most_ > 1e150 ? 0x1p520 : 1;
    const L inverse(1 / unit), minus_inf(-infinity<double>());
    const L whole = (ms_ - ms_) + (mt_ - mt_);  // NaN where a row has no finite largest logit
    const L total = sum_over(row_, [&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      const L s = load(row_.s + c), t = load(row_.t + c);
      const Mask<double> both = (s == minus_inf) & (t == minus_inf),
                         either = (s == minus_inf) | (t == minus_inf);
      const L d = zero_where(both, s * inverse - t * inverse);
      store(row_.grad + c, zero_where(either, s * L(0.25) - t * L(0.25)) + whole);
      return d * d + whole;
    });
    const double mean = sum(total) / static_cast<double>(row_.classes) * unit * unit;
    mean_slope_ = L(mean == mean ? 0.0 : mean);  // NaN in one class is NaN in all
    return mean;
  }

  // ---- Fourth pass: the gradient
  void write_gradient(double grad_scale) {
    const L hard_factor = L(plan_.hard_slope() * grad_scale) / (sums_.others + sums_.label);
    const double soft = plan_.soft_weight * grad_scale;
    const L soft_factor(kDistance ? 8 * soft / static_cast<double>(row_.classes) : soft / quarter_);
    const L mean_factor = kSoftmax ? tau_over_zs_ * mean_slope_ : L(0.0);
    each([&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      L g(0.0);
      if constexpr (Hard) {
        L e1 = load(row_.e1 + c);
        if (holds_label(c) && !plan_.keeps_p1) e1 = with_lane(e1, plan_.label - c, -first(sums_.others));
        g = hard_factor * e1;
      }
      if constexpr (kSoft) {
        L slope = load(row_.grad + c);
        if constexpr (kDistance) slope = slope + mean_slope_;
        if constexpr (kSoftmax) {
          if constexpr (!D::kIsDifference) slope = slope - load(row_.es + c) * mean_factor;
        }
        g = fma(soft_factor, slope, g);
      }
      store(row_.grad + c, g);
    });
  }

  const CarefulRow& row_;
  const RowPlan& plan_;
  RowNumber ms_, mt_, tau_, log_ratio_, tau_over_zs_, tau_over_zt_, mean_slope_ = RowNumber(0.0);
  double most_ = 0, quarter_ = 1;
  std::int64_t top_ = 0;  // the student's largest class
  Frame<double> frame_, top_frame_;
  Sums<RowNumber> sums_;
};

// ---- The row of a call

template <class T>
void widen(const Matrix<const T>& from, std::int64_t row, std::int64_t classes, double* to) {
  const T* const values = at(from, row);
  if (from.class_stride == 1)
    for (std::int64_t c = 0; c < classes; ++c) to[c] = static_cast<double>(values[c]);
  else
    for (std::int64_t c = 0; c < classes; ++c) to[c] = static_cast<double>(*at(from, row, c));
  for (std::int64_t c = classes; c < CarefulRow::padded(classes); ++c) to[c] = -infinity<double>();
}

// Of a row whose probabilities are there; in its gradient's place.
inline void write_careful_hessian(const CarefulRow& row, const RowPlan& plan, double scale, bool distance) {
  const bool softmax = plan.soft && !distance;
  const Lanes<double> hard(plan.hard_slope() * scale), soft(plan.soft_weight * scale);
  const InRow<double> layout{row.columns().end};
  for (std::int64_t c = 0; c < row.columns().end; ++c) row.grad[c] = 0;
  if (plan.hard || softmax)
    with_parts(plan.hard, softmax, [&](auto with_hard, auto with_soft) {
      write_hessian<with_hard.value, with_soft.value>(layout, row.p1, row.p, hard, soft, row.grad);
    });
  const double curvature = plan.soft && distance ? 2 * first(soft) / static_cast<double>(row.classes) : 0;
  for (std::int64_t c = 0; c < row.classes; ++c) row.grad[c] += curvature;
}

// Row i of a chunk. What is written lies stride apart, or nowhere (null).
template <class T>
RowParts careful_row(const KdCall<T>& call, const Chunk<T>& chunk, std::int64_t i, RowPlan plan,
                     double* scratch, T* grad, T* hess, std::int64_t stride) {
  // The caller's labels may have changed since they were checked.
  plan.hard &= plan.label >= 0 && plan.label < call.classes;
  if (!plan.hard && !plan.soft) return {};
  const CarefulRow row(scratch, call.classes);
  widen(chunk.student, i, call.classes, row.s);
  if (plan.soft) widen(chunk.teacher, i, call.classes, row.t);
  const auto copy_out = [&](T* to) {
    if (to == nullptr) return;
    if (stride == 1)
      for (std::int64_t c = 0; c < call.classes; ++c) to[c] = static_cast<T>(row.grad[c]);
    else
      for (std::int64_t c = 0; c < call.classes; ++c) to[c * stride] = static_cast<T>(row.grad[c]);
  };
  const auto compute = [&](auto hard, auto wrapped) {
    CarefulLoss<hard.value, typename decltype(wrapped)::Type> loss(row, plan);
    const RowParts parts = loss.losses(tau_of(call, chunk.first + i), call.beta, call.grad_scale);
    if (hess != nullptr) loss.write_probabilities();
    return parts;
  };
  RowParts parts;
  if (!plan.soft)
    parts = compute(Constant<true>{}, Wrapped<void>{});
  else
    with_divergence(call.divergence, [&](auto wrapped) {
      parts = plan.hard ? compute(Constant<true>{}, wrapped) : compute(Constant<false>{}, wrapped);
    });
  copy_out(grad);
  if (hess != nullptr) {
    write_careful_hessian(row, plan, call.hess_scale, call.divergence == Divergence::kMSE);
    copy_out(hess);
  }
  return parts;
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
