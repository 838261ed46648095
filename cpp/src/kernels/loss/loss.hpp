// The loss of one row, or of all rows of a tile, from its logits to its gradient: the plain path, written
// once for both walks (ByLane, ByRow).
//
// The passes are called in this order:
//
//     find_extents        the largest logits, and how deep the others lie
//     find_exponentials   et, es, de and e1 of each class, and their sums
//     find_losses         the hard and the soft loss, and where they are in reach
//     write_gradient, write_hessian
#pragma once

#include "exact_growth.hpp"
#include "hessian.hpp"
#include "walk.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class Walk>
class Loss {
  using T = typename Walk::Element;
  using L = Lanes<T>;
  using Number = typename Walk::Number;
  using Flag = typename Walk::Flag;
  using Limit = Threshold<T>;

 public:
  // Of the hard part, the soft part or both.
  Loss(const Walk& walk, bool hard, bool soft)
      : walk_(walk),
        hard_(hard),
        soft_(soft),
        is_mse_(soft && walk.divergence() == Divergence::kMSE),
        has_softmax_(soft && !is_mse_),
        uses_hard_(walk.uses_hard(hard)),
        uses_soft_(walk.uses_soft(soft)) {}

  // ---- First pass
  void find_extents() {
    walk_.each_section([&](Section<T>& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      if (soft_)
        section.extent = find_extent<true>(x.groups, x.labels);
      else
        section.extent = find_extent<false>(x.groups, x.labels);
      Walk::spread(section.extent);
    });
    extent_ = &walk_.extent();
    frame_ = Frame<T>(extent_->ms, extent_->mt, walk_.k(), walk_.inverse_tau());
  }

  // ---- Second pass
  void find_exponentials() {
    const bool rounded_gaps =
        Walk::kHasRoundedGaps && hard_ && has_softmax_ && !any(~rounded_gap_is_in_reach(frame_));
    walk_.each_section([&](Section<T>& section, const auto& x)
                           KDLOSS_INLINE_LAMBDA { add_section(section, x, rounded_gaps); });
    sums_ = &walk_.sums();
    if (has_softmax_) result_ = soft_result(*sums_, walk_.row_inverse_tau());
  }

  // ---- Third pass, which reads the logits again for rows that are near their teacher
  // Where the losses are not within reach they are not to be used.
  Flag find_losses(Number& hard, Number& soft) {
    Flag fit = walk_.is_ordinary();
    if (hard_) {
      hard = hard_result(*sums_, walk_.label_below(*extent_));
      fit = fit & ((Number(Limit::kTail) <= hard) | ~walk_.flag(uses_hard_));
    }
    if (soft_) fit = fit & (find_soft(soft) | ~walk_.flag(uses_soft_));
    return fit;
  }

  // ---- The gradient
  void write_gradient() const {
    Number of_e1(0), of_slope(0), of_es(0);
    if (hard_) of_e1 = walk_.hard_factor() / total_e1();
    if (soft_) {
      const bool is_kl = walk_.divergence() == Divergence::kKL;
      const Flag uses_soft = walk_.flag(uses_soft_);
      // For KL: tau (p - q) = tau / Zt (de - (D / Zs) es). The others: tau p (f - mean f) = tau / Zs (slope -
      // (sum of slopes / Zs) es). For MSE slope is s - t, and es is 0.
      const Number unit =
          is_mse_ ? walk_.mse_factor() : walk_.soft_factor() * (is_kl ? result_.inverse_zt : inverse_zs_);
      const Number ratio = is_mse_ ? Number(0) : (is_kl ? balanced_d() / sums_->zs : mean_slope_);
      of_slope = where(uses_soft, unit, Number(0));
      of_es = where(uses_soft, Number(0) - unit * ratio, Number(0));
    }
    const GradientFactors<T> factor{Walk::lanes(of_e1), Walk::lanes(of_slope), Walk::lanes(of_es)};
    const L others = Walk::lanes(sums_->others);
    if (hard_ && soft_) walk_.clear_unused_terms();
    walk_.each_section([&](const Section<T>& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      with_loop(hard_, soft_, section.squarings, [&](auto hard, auto soft, auto n) KDLOSS_INLINE_LAMBDA {
        write_terms<hard.value, soft.value, n.value>(x.groups, factor, walk_.gradient_labels(x.labels),
                                                     others, walk_.grad() + x.column);
      });
    });
  }

  // ---- The Hessian
  // Where each probability comes out as the Hessian wants it: a normal number, with all its digits. MSE
  // has none: its Hessian is left to the careful path.
  Mask<T> probabilities_are_normal() const {
    if (is_mse_) return all_lanes<L>(false);
    const L spread_s = frame_.ms - extent_->lowest_s, spread_t = frame_.mt - extent_->lowest_t;
    const L rounded = spread_t + L(2) * max(spread_s, spread_t);
    const L unit = where(uses_hard_ & (L(0) <= walk_.squarings()), L(1), walk_.tau());
    return is_normal(*extent_) & ((spread_s <= L(Limit::kHardDepth)) | ~uses_hard_) &
           ((rounded <= L(Limit::kHessianDepth) * unit) | ~uses_soft_);
  }
  void write_hessian(T* hess) const {
    L of_e1(T(0)), of_es = of_e1;
    if (hard_) of_e1 = Walk::lanes(Number(1) / total_e1());
    if (soft_) of_es = where(uses_soft_, Walk::lanes(Number(1) / sums_->zs), L(0));
    walk_.each_section([&](const Section<T>& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      with_loop(hard_, soft_, section.squarings, [&](auto hard, auto soft, auto n) KDLOSS_INLINE_LAMBDA {
        write_probabilities<hard.value, soft.value, n.value>(x.groups, of_e1, of_es, walk_.p1() + x.column,
                                                             walk_.p() + x.column);
      });
    });
    with_parts(hard_, soft_, [&](auto hard, auto soft) {
      KDLOSS_ISA::write_hessian<hard.value, soft.value>(walk_.layout(), walk_.p1(), walk_.p(),
                                                        walk_.hard_curvature(), walk_.soft_curvature(), hess);
    });
  }

 private:
  // Where normal_terms() will do, or (without a softmax) normal_e1().
  KDLOSS_INLINE Mask<T> is_normal(const Extent<T>& x) const {
    const L spread_s = frame_.ms - x.lowest_s, spread_t = frame_.mt - x.lowest_t, tau = walk_.tau();
    if (!has_softmax_) return spread_s <= L(Limit::kHardDepth);
    return (uses_soft_ & (spread_s <= L(Limit::kStudentDepth) * tau) &
            (spread_t <= L(Limit::kTeacherDepth) * tau)) |
           (~uses_soft_ & (spread_s <= L(Limit::kHardDepth)));
  }
  // How often es is squared for e1; -1 where e1 has an exponential of its own.
  KDLOSS_INLINE L squarings(const Extent<T>& x, Mask<T> normal) const {
    const Mask<T> e1_is_power = uses_soft_ & normal & (frame_.ms - x.lowest_s <= L(Limit::kHardDepth)) &
                                (frame_.mt - x.lowest_t <= L(Limit::kPowerDepth));
    return has_softmax_ ? where(e1_is_power, walk_.squarings(), L(-1)) : L(-1);
  }

  template <class Classes>
  KDLOSS_INLINE void add_section(Section<T>& section, const Classes& x, bool rounded_gaps) const {
    const Mask<T> normal = is_normal(section.extent);
    const L squarings = this->squarings(section.extent, normal);
    const bool is_alike = !any(~(squarings == L(first(squarings)))), beyond = any(~normal);
    section.squarings = hard_ && is_alike && !beyond ? static_cast<int>(first(squarings)) : -1;
    Sums<L>& sums = section.sums;
    if (!hard_ || !has_softmax_) sums = Sums<L>();
    if (section.squarings >= 0)
      with_squarings(section.squarings, [&](auto n) KDLOSS_INLINE_LAMBDA {
        if (rounded_gaps && add_rounded<n.value>(x, sums)) return;
        add_soft<kExactGap, n.value>(x.groups, frame_, normal, x.labels, x.ahead, sums);
      });
    else if (has_softmax_ && beyond)
      add_soft<Walk::kBeyond, -1>(x.groups, frame_, normal, x.labels, x.ahead, sums);
    else if (has_softmax_)
      add_soft<kExactGap, -1>(x.groups, frame_, normal, x.labels, x.ahead, sums);
    if (hard_ && (beyond || !is_alike))
      add_hard<true>(x.groups, frame_.ms, normal, squarings, x.labels, x.ahead, sums);
    else if (hard_ && section.squarings < 0)
      add_hard<false>(x.groups, frame_.ms, normal, squarings, x.labels, x.ahead, sums);
  }
  // False where the gaps need their rounding errors.
  template <int Squarings, class Classes>
  KDLOSS_INLINE bool add_rounded(const Classes& x, Sums<L>& sums) const {
    if constexpr (Walk::kHasRoundedGaps) {
      add_soft<kRoundedGap, Squarings>(x.groups, frame_, all_lanes<L>(true), x.labels, x.ahead, sums);
      return rounded_gap_is_fit(frame_, static_cast<double>(sum(sums.moved)),
                                static_cast<double>(sum(sums.zt)));
    }
    return false;
  }
  Number total_e1() const { return sums_->others + sums_->label_e1; }

  // The soft loss, and where it is within reach.
  Flag find_soft(Number& soft) {
    if (walk_.divergence() == Divergence::kKL) return find_kl(soft);
    if (is_mse_) return find_mse(soft);
    if (walk_.wants_hessian()) return all_lanes<Number>(false);
    return find_divergence(soft);
  }
  Flag find_mse(Number& soft) {
    walk_.each_section([&](Section<T>& section, const auto& x)
                           KDLOSS_INLINE_LAMBDA { section.third = {add_mse(x.groups)}; });
    soft = walk_.third().terms / Number(walk_.classes());
    return (Number(Limit::kLeastTerm) <= soft) & (soft < Number(Format<T>::kLargest));
  }
  Flag find_divergence(Number& soft) {
    const Divergence divergence = walk_.divergence();
    const Number tau = walk_.row_tau(), tau_log_ratio = Number(0) - result_.log_ratio * tau;
    const L top_t = walk_.top_teacher(frame_.ms);
    Shared<T> row{frame_,
                  Frame<T>(frame_.ms, top_t, frame_.k, frame_.inverse_tau),
                  walk_.tau(),
                  Walk::lanes(tau_log_ratio),
                  Walk::lanes(sums_->zs * result_.inverse_zt),
                  {}};
    const auto top =
        class_numbers(two_diff(frame_.ms, top_t), L(1), exp_normal(top_t - frame_.mt, frame_.k), row);
    row.top = {top.q, top.p, top.difference};
    walk_.each_section([&](Section<T>& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      section.third = add_divergence(divergence, walk_.beta(), x.groups, row);
    });
    const DivergenceSums<Number> sums = walk_.third();
    inverse_zs_ = Number(1) / sums_->zs, mean_slope_ = sums.slopes * inverse_zs_;
    soft = sums.terms * inverse_zs_ * tau;
    const Rounding<Number> rounding{soft, tau, tau_log_ratio, sums.least, Format<T>::kHalfUlp};
    Flag fit = walk_.flag(is_normal(*extent_)) & (soft < Number(__builtin_inf())) &
               (Number(Limit::kTail) * tau * tau <= soft) & (Number(Limit::kLeastTerm) <= abs(sums.slopes));
    with_divergence(divergence, [&](auto wrapped) {
      using Kind = typename decltype(wrapped)::Type;
      if constexpr (!Kind::kGradientIsPMinusQ) fit = fit & Kind(walk_.beta()).keeps_digits(rounding);
    });
    return fit & ~walk_.flag(balanced(mean_slope_));
  }

  // Whether the sum of the slopes balances, so that the errors of its terms count.
  Mask<T> balanced(Number mean) const {
    const L depth = (frame_.mt - extent_->lowest_t) * walk_.inverse_tau(), zs = Walk::lanes(sums_->zs);
    const Mask<T> wanted = uses_soft_ & may_balance<T>(static_cast<T>(walk_.classes()), depth, zs);
    if (!any(wanted)) return wanted;
    Balance<T> balance;
    const L ratio = Walk::lanes(mean);
    walk_.each_groups([&](const Groups<T>& groups) KDLOSS_INLINE_LAMBDA {
      groups.each([&](std::int64_t i, std::int64_t) KDLOSS_INLINE_LAMBDA {
        balance.add(load(groups.es() + i), load(groups.slope() + i), ratio);
      });
    });
    return wanted &
           balances(Walk::sum_in_row(balance.sum_abs), Walk::largest_in_row(balance.most), depth, zs);
  }

  // As find_divergence, for KL, which has a sum that needs no reading of the classes where the row is far
  // from its teacher.
  Flag find_kl(Number& soft) {
    const Number tau = walk_.row_tau();
    soft = result_.kl * tau * tau;
    const Flag fit = abs(soft) < Number(__builtin_inf());  // not NaN, nor beyond the type's range
    const Flag far = kl_is_far(result_.kl, abs(result_.log_ratio));
    if (!any(~far)) return fit;
    const Number tau_log_ratio = Number(0) - result_.log_ratio * tau;
    const NearFactors<T> factor{Walk::lanes(Number(1) / sums_->zs), Walk::lanes(result_.inverse_zt),
                                Walk::lanes(tau_log_ratio), walk_.tau()};
    walk_.each_section([&](Section<T>& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      section.third = {near_terms(x.groups, frame_, factor, is_normal(section.extent))};
    });
    soft = where(far, soft, walk_.third().terms);
    return fit & (far | (walk_.flag(is_normal(*extent_)) & are_equal(*sums_, soft)) |
                  near_kl_is_fit(soft, tau_log_ratio * tau_log_ratio, tau, Number(Limit::kTail)));
  }

  // D, for the gradient.
  Number balanced_d() const {
    const Mask<T> is_balanced = balanced(sums_->d / sums_->zs);
    return any(is_balanced) ? walk_.exact_growth(is_balanced, frame_, sums_->d) : sums_->d;
  }

  const Walk& walk_;
  const bool hard_, soft_, is_mse_, has_softmax_;
  const Mask<T> uses_hard_, uses_soft_;
  const Extent<T>* extent_ = nullptr;
  Frame<T> frame_;
  const Sums<Number>* sums_ = nullptr;
  SoftResult<Number> result_;
  // For divergences other than KL: 1 / Zs, and the mean slope.
  Number inverse_zs_, mean_slope_;
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
