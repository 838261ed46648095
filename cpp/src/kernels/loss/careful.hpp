// The loss of one row in double, whatever the type of the arrays: for rows that are beyond the reach of the
// plain path (infinite logits, NaN, temperatures at the extremes, losses made of mere tails, a student that
// masks what its teacher hardly wants, a total variation that hangs on a sign within rounding).
//
// Four passes: extents, exponentials, losses, gradient. In the third each class has exact numbers q, p - q
// and u; the divergences are functions of these (divergences.hpp).
#pragma once

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

// The sums of the N numbers that f(c) gives for each Vector of classes: in blocks, for the digits.
template <int N, class F>
KDLOSS_INLINE Some<double, N> sums_over(const CarefulRow& row, F&& f) {
  Some<Lanes<double>, N> total{};
  for_blocks(row.columns().end, [&](Span block) {
    Some<Lanes<double>, N> in_block;
    for (int part = 0; part < kParts; ++part) {
      Some<Vector<double>, N> own{};
      const std::int64_t first = block.begin + part * Vector<double>::kCount;
      for (std::int64_t c = first; c < block.end; c += Lanes<double>::kCount) {
        const Some<Vector<double>, N> x = f(c);
        for (int i = 0; i < N; ++i) own.x[i] = own.x[i] + x.x[i];
      }
      for (int i = 0; i < N; ++i) set_part(in_block.x[i], part, own.x[i]);
    }
    for (int i = 0; i < N; ++i) total.x[i] = total.x[i] + in_block.x[i];
  });
  Some<double, N> result;
  for (int i = 0; i < N; ++i) result.x[i] = sum(total.x[i]);
  return result;
}

class CarefulLoss {
  // A row is slow in any case: one native vector at a time keeps its code short.
  using L = Vector<double>;

 public:
  CarefulLoss(const CarefulRow& row, const RowPlan& plan, Divergence divergence)
      : row_(row),
        plan_(plan),
        divergence_(divergence),
        is_mse_(plan.soft && divergence == Divergence::kMSE),
        has_softmax_(plan.soft && !is_mse_) {}

  // Its passes, in their order.
  RowParts losses(double tau, double beta, double grad_scale) {
    RowParts parts;
    find_extents();
    if (plan_.hard || has_softmax_)
      with_parts(plan_.hard, has_softmax_,
                 [&](auto hard, auto soft) { find_exponentials<hard.value, soft.value>(tau); });
    if (plan_.hard) parts.hard = first(hard_result(sums_, ms_ - L(row_.s[plan_.label])));
    if (is_mse_) parts.soft = mse();
    if (has_softmax_)
      with_divergence(divergence_, [&](auto wrapped) {
        const typename decltype(wrapped)::Type divergence(beta);
        parts.soft = soft_loss(divergence, 1);
        // Terms that underflow where tau^2 D does not: once more, with headroom.
        constexpr double kTiny = 1e-270, kHeadroom = 1 / Format<double>::kInverseHeadroom;
        if (parts.soft < kTiny && tau < 1e100) parts.soft = soft_loss(divergence, kHeadroom);
      });
    with_parts(plan_.hard, plan_.soft,
               [&](auto hard, auto soft) { write_gradient<hard.value, soft.value>(grad_scale); });
    return parts;
  }

  // In the gradient's place.
  void write_hessian(double scale) const {
    each([&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      if (plan_.hard) store(row_.p1 + c, load<1>(row_.e1 + c) / (sums_.others + sums_.label_e1));
      if (has_softmax_) store(row_.p + c, load<1>(row_.es + c) / sums_.zs);
      store(row_.grad + c, L(0));
    });
    const L hard_weight(plan_.hard_factor() * scale), soft_weight(plan_.soft_weight * scale);
    if (plan_.hard || has_softmax_)
      with_parts(plan_.hard, has_softmax_, [&](auto hard, auto soft) {
        KDLOSS_ISA::write_hessian<hard.value, soft.value, InRow<double>, double>(
            {row_.columns().end}, row_.p1, row_.p, first(hard_weight), first(soft_weight), row_.grad);
      });
    const double curvature = is_mse_ ? 2 * first(soft_weight) / static_cast<double>(row_.classes) : 0;
    for (std::int64_t c = 0; c < row_.classes; ++c) row_.grad[c] += curvature;
  }

 private:
  template <class Body>
  KDLOSS_INLINE void each(Body&& body) const {
    for (std::int64_t c = 0; c < row_.columns().end; c += L::kCount) body(c);
  }

  // ---- First pass: the largest logits, and the largest magnitude of the finite ones
  void find_extents() {
    L ms(-infinity<double>()), mt = ms, most(0.0);
    const auto finite = [](L x) KDLOSS_INLINE_LAMBDA {
      return where(abs(x) < L(infinity<double>()), abs(x), L(0.0));
    };
    each([&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      const L s = load<1>(row_.s + c), t = plan_.soft ? load<1>(row_.t + c) : s;
      ms = max(s, ms), mt = max(t, mt), most = max(max(finite(s), finite(t)), most);
    });
    ms_ = L(largest(ms)), mt_ = L(largest(mt)), most_ = largest(most);
    top_ = top_class(row_.s, row_.columns().end, Lanes<double>(first(ms_)));
  }

  // ---- Second pass: the exponentials and their sums. es and et are 2^kHeadroomExponent times themselves, so
  // that tau q keeps its digits where q underflows.
  template <bool Hard, bool Soft>
  void find_exponentials(double tau) {
    using F = Format<double>;
    // A quarter of all logits, and of tau, where a difference could leave the type's range.
    quarter_ = Soft && most_ > F::kLargest / 8 ? 0.25 : 1;
    const Temperature<double> temperature(tau * quarter_);
    const L zero(temperature.underflow_at), scale(quarter_),
        zero1(zero_at<double>(kLog2E, F::kHeadroomExponent));
    tau_ = L(temperature.tau);
    frame_ = Frame<double, 1>(ms_ * scale, mt_ * scale, temperature);
    double label_e1 = 0;
    const auto sums = sums_over<4>(row_, [&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      const L s = load<1>(row_.s + c);
      Terms<double, 1> x;
      x.et = x.es = x.de = L(0);
      if constexpr (Soft) {
        x = any_terms(s * scale, load<1>(row_.t + c) * scale, frame_, zero, F::kHeadroomExponent);
        store(row_.es + c, x.es), store(row_.et + c, x.et), store(row_.gap + c, x.gap);
      }
      L e1(0.0);
      if constexpr (Hard) {
        e1 = exp_any(s - ms_, L(kLog2E), zero1);
        store(row_.e1 + c, e1);
        if (holds_label(c)) {
          label_e1 = lane(e1, plan_.label - c);
          e1 = with_lane(e1, plan_.label - c, 0.0);
        }
      }
      return Some<L, 4>{x.et, x.es, x.de, e1};
    });
    sums_.zt = sums.x[0], sums_.zs = sums.x[1], sums_.d = sums.x[2];
    sums_.others = sums.x[3], sums_.label_e1 = label_e1;
    if constexpr (Soft) log_ratio_ = soft_result(sums_, frame_.inverse_tau).log_ratio;
  }
  bool holds_label(std::int64_t c) const {
    return static_cast<std::uint64_t>(plan_.label - c) < static_cast<std::uint64_t>(L::kCount);
  }

  // ---- Third pass: the soft loss. Leaves tau p (f - f of the top class) for the gradient, or tau (p - q).
  using Numbers = ClassNumbers<L>;
  KDLOSS_INLINE Numbers numbers(L s, L t, L es, L et, L gap, L headroom) const {
    Numbers x;
    const L minus_inf(-infinity<double>());
    x.student_masks = (s == minus_inf) & (minus_inf < t),
    x.teacher_masks = (t == minus_inf) & (minus_inf < s);
    x.q = et * headroom * tau_over_zt_, x.p = es * headroom * tau_over_zs_;
    x.u = gap * frame_.inverse_tau - log_ratio_, x.tau_u = gap - log_ratio_ * tau_;
    x.u_is_small = abs(x.u) < L(1.0);
    x.difference =
        where(x.u_is_small, x.q * fma(x.u * x.u, expm1_remainder_over_square(x.u), x.u), x.p - x.q);
    const L scale(quarter_);
    x.step = logit_gap(s * scale, t * scale, top_frame_) * frame_.inverse_tau;
    return x;
  }
  KDLOSS_INLINE Numbers numbers_at(std::int64_t c, L headroom) const {
    return numbers(load<1>(row_.s + c), load<1>(row_.t + c), load<1>(row_.es + c), load<1>(row_.et + c),
                   load<1>(row_.gap + c), headroom);
  }
  template <class D>
  __attribute__((noinline)) double soft_loss(const D& divergence, L headroom) {
    tau_over_zs_ = tau_ / sums_.zs, tau_over_zt_ = tau_ / sums_.zt;
    const double top_t = row_.t[top_];
    top_frame_ =
        Frame<double, 1>(ms_ * L(quarter_), (top_t > -infinity<double>() ? L(top_t) : mt_) * L(quarter_),
                         frame_.k, frame_.inverse_tau);
    const auto own = [&](const double* x) { return L(x[top_]); };
    const Numbers x = numbers(own(row_.s), own(row_.t), own(row_.es), own(row_.et), own(row_.gap), headroom);
    const TopClass<L> top{x.q, x.p, x.difference};
    slope_headroom_ = most_ < 1e100 && first(tau_) < 1e100 ? 0x1p100 : 1;
    const auto sums = sums_over<2>(row_, [&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      const Numbers x = numbers_at(c, headroom);
      L slope = x.difference;
      if constexpr (!D::kGradientIsPMinusQ) {
        slope = zero_where(x.p == L(0.0), x.p * L(slope_headroom_) * divergence.slope(x, top));
      }
      store(row_.grad + c, slope / (D::kGradientIsPMinusQ ? headroom : headroom * L(slope_headroom_)));
      return Some<L, 2>{divergence.term(x, tau_), D::kGradientIsPMinusQ ? L(0) : slope};
    });
    const double nan_or_zero = first(log_ratio_ - log_ratio_);  // NaN where a whole row is masked
    const double loss = (sums.x[0] + nan_or_zero) / first(headroom) / (quarter_ * quarter_);
    mean_slope_ =
        L(sums.x[1]) / (tau_ * headroom) + L(loss == loss ? 0.0 : loss);  // NaN in one class is NaN in all
    return loss;
  }

  // The mean square of s - t, which may leave the type's range on the way; 0 where both are masked.
  double mse() {
    const double unit = most_ > 1e150 ? 0x1p520 : 1;
    const L inverse(1 / unit), minus_inf(-infinity<double>());
    const L whole = (ms_ - ms_) + (mt_ - mt_);  // NaN where a row has no finite largest logit
    const auto sums = sums_over<1>(row_, [&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      const L s = load<1>(row_.s + c), t = load<1>(row_.t + c);
      const Mask<double, 1> both = (s == minus_inf) & (t == minus_inf),
                            either = (s == minus_inf) | (t == minus_inf);
      const L d = zero_where(both, s * inverse - t * inverse);
      store(row_.grad + c, zero_where(either, s * L(0.25) - t * L(0.25)) + whole);
      store(row_.es + c, L(0));
      return Some<L, 1>{d * d + whole};
    });
    const double mean = sums.x[0] / static_cast<double>(row_.classes) * unit * unit;
    mean_slope_ = L(mean == mean ? 0.0 : mean);  // NaN in one class is NaN in all
    return mean;
  }

  // ---- Fourth pass: the gradient
  template <bool Hard, bool Soft>
  void write_gradient(double grad_scale) {
    const L hard_factor = L(plan_.hard_factor() * grad_scale) / (sums_.others + sums_.label_e1);
    const double soft = plan_.soft_weight * grad_scale;
    const L soft_factor(is_mse_ ? 8 * soft / static_cast<double>(row_.classes) : soft / quarter_);
    constexpr double kInverseHeadroom = Format<double>::kInverseHeadroom;  // of es
    // For KL the slope is tau (p - q) itself, and for MSE s - t: only a NaN comes of the mean.
    const bool has_mean = has_softmax_ && divergence_ != Divergence::kKL;
    const L mean_factor = has_mean ? tau_over_zs_ * L(1 / kInverseHeadroom) * mean_slope_ : L(0.0),
            nan_or_zero = mean_slope_ - mean_slope_;
    each([&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      L g(0.0);
      if constexpr (Hard) {
        L e1 = load<1>(row_.e1 + c);
        if (holds_label(c) && !plan_.keeps_p1) e1 = with_lane(e1, plan_.label - c, -first(sums_.others));
        g = hard_factor * e1;
      }
      if constexpr (Soft)
        g = fma(soft_factor,
                load<1>(row_.grad + c) -
                    load<1>(row_.es + c) * L(kInverseHeadroom) * mean_factor / L(slope_headroom_) +
                    nan_or_zero,
                g);
      store(row_.grad + c, g);
    });
  }

  const CarefulRow& row_;
  const RowPlan& plan_;
  const Divergence divergence_;
  const bool is_mse_, has_softmax_;
  L ms_, mt_, tau_, log_ratio_, tau_over_zs_, tau_over_zt_, mean_slope_ = L(0.0);
  double most_ = 0, quarter_ = 1;
  double slope_headroom_ = 1;
  std::int64_t top_ = 0;  // the student's largest class
  Frame<double, 1> frame_, top_frame_;
  Sums<L> sums_;
};

// ---- The row of a call

template <class T>
void widen(const Matrix<const T>& from, std::int64_t row, std::int64_t classes, double* to) {
  for (std::int64_t c = 0; c < classes; ++c) to[c] = static_cast<double>(*at(from, row, c));
  for (std::int64_t c = classes; c < CarefulRow::padded(classes); ++c) to[c] = -infinity<double>();
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
    for (std::int64_t c = 0; to != nullptr && c < call.classes; ++c)
      to[c * stride] = static_cast<T>(row.grad[c]);
  };
  CarefulLoss loss(row, plan, call.divergence);
  const RowParts parts = loss.losses(tau_of(call, chunk.first + i), call.beta, call.grad_scale);
  copy_out(grad);
  if (hess != nullptr) {
    loss.write_hessian(call.hess_scale);
    copy_out(hess);
  }
  return parts;
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
