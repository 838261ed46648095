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

template <bool Hard, bool Soft, class Walk>
class Loss {
  using T = typename Walk::Element;
  using L = Lanes<T>;
  using Number = typename Walk::Number;
  using Flag = typename Walk::Flag;
  using Section = typename Walk::Section;
  using Limit = Threshold<T>;

 public:
  explicit Loss(const Walk& walk)
      : walk_(walk),
        is_distance_(Soft && walk.divergence() == Divergence::kMSE),
        uses_soft_(walk.uses_soft(Soft)),
        uses_softmax_(is_distance_ ? L(0) < L(0) : uses_soft_) {}

  // ---- First pass
  void find_extents() {
    walk_.each_section([&](Section& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      section.extent = Walk::in_row(find_extent<Hard, Soft>(x.groups, x.labels));
    });
    for (const Section& section : walk_.sections()) extent_.add(section.extent);
    frame_ = Frame<T>(extent_.ms, extent_.mt, walk_.k(), walk_.inverse_tau());
  }

  // ---- Second pass
  void find_exponentials() {
    const bool plain_gaps = Walk::kHasPlainGaps && !any(~plain_gap_is_in_reach(frame_)) &&
                            !any(~(frame_.mt - extent_.lowest_t <= L(Limit::kPowerDepth) * walk_.tau()));
    walk_.each_section([&](Section& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      find_reach(section);
      add_section(section, x, plain_gaps);
    });
    in_reach_ = L(0) == L(0);
    for (const Section& section : walk_.sections())
      sums_.add(section.sums), in_reach_ = in_reach_ & section.reach.plain;
    if (Soft && !is_distance_) soft_ = soft_result(sums_, walk_.exact_inverse_tau());
  }

  // ---- Third pass, which reads the logits again for rows that are near their teacher
  // Where the losses are not within reach they are not to be used.
  Flag find_losses(Number& hard, Number& soft) {
    Flag fit = walk_.is_ordinary();
    if constexpr (Hard) {
      hard = hard_result(sums_, walk_.label_below(extent_));
      fit = fit & ((Number(Limit::kTail) <= hard) | ~walk_.flag(walk_.uses_hard(Hard)));
    }
    if constexpr (Soft) fit = fit & (find_soft(soft) | ~walk_.flag(uses_soft_));
    return fit;
  }

  // ---- The gradient
  void write_gradient() const {
    Number e1(0), de(0), es(0);
    if constexpr (Hard) e1 = walk_.hard_slope() / total_e1();
    if constexpr (Soft) {
      const bool is_kl = walk_.divergence() == Divergence::kKL;
      const Flag uses_soft = walk_.flag(uses_soft_);
      const Number unit = is_distance_ ? walk_.distance_slope()
                                       : walk_.soft_slope() * (is_kl ? soft_.inverse_zt : slope_unit_);
      const Number ratio = is_distance_ ? Number(0) : (is_kl ? growth() / sums_.zs : mean_slope_);
      de = where(uses_soft, unit, Number(0)), es = where(uses_soft, Number(0) - unit * ratio, Number(0));
    }
    const GradientFactors<T> factor{Walk::lanes(e1), Walk::lanes(de), Walk::lanes(es)};
    const L others = Walk::lanes(sums_.others);
    if constexpr (Hard && Soft) walk_.clear_unused_terms();
    walk_.each_section([&](const Section& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      with_squared(section, [&](auto is_squared) KDLOSS_INLINE_LAMBDA {
        write_terms<Hard, Soft, is_squared.value>(x.groups, factor, section.reach.times,
                                                  walk_.gradient_labels(x.labels), others,
                                                  walk_.grad() + x.column);
      });
    });
  }

  // ---- The Hessian
  // Where each probability comes out as the Hessian wants it: a normal number, with all its digits. A
  // distance has none: its Hessian is left to the careful path.
  Mask<T> probabilities_are_whole() const {
    if (is_distance_) return L(0) < L(0);
    const L spread_s = frame_.ms - extent_.lowest_s, spread_t = frame_.mt - extent_.lowest_t;
    const L rounded = spread_t + L(2) * max(spread_s, spread_t);
    const Mask<T> uses_hard = walk_.uses_hard(Hard);
    const L unit = where(uses_hard & (L(0) <= walk_.squarings()), L(1), walk_.tau());
    return in_reach_ & ((spread_s <= L(Limit::kHardDepth)) | ~uses_hard) &
           ((rounded <= L(Limit::kHessianDepth) * unit) | ~uses_soft_);
  }
  void write_hessian(T* hess) const {
    L e1(T(0)), es = e1;
    if constexpr (Hard) e1 = Walk::lanes(Number(1) / total_e1());
    if constexpr (Soft) es = where(uses_soft_, Walk::lanes(Number(1) / sums_.zs), L(0));
    walk_.each_section([&](const Section& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      with_squared(section, [&](auto is_squared) KDLOSS_INLINE_LAMBDA {
        write_probabilities<Hard, Soft, is_squared.value>(x.groups, section.reach.times, e1, es,
                                                          walk_.p1() + x.column, walk_.p() + x.column);
      });
    });
    kdloss::KDLOSS_ISA::write_hessian<Hard, Soft>(walk_.layout(), walk_.p1(), walk_.p(),
                                                  walk_.hard_curvature(), walk_.soft_curvature(), hess);
  }

 private:
  // How the terms of a section may come about.
  KDLOSS_INLINE void find_reach(Section& section) const {
    const L spread_s = frame_.ms - section.extent.lowest_s, spread_t = frame_.mt - section.extent.lowest_t;
    const L tau = walk_.tau();
    const Mask<T> is_whole = spread_s <= L(Limit::kHardDepth);
    section.reach.plain = (uses_softmax_ & (spread_s <= L(Limit::kStudentDepth) * tau) &
                           (spread_t <= L(Limit::kTeacherDepth) * tau)) |
                          (~uses_softmax_ & is_whole);
    const Mask<T> has_squares =
        uses_softmax_ & section.reach.plain & is_whole & (spread_t <= L(Limit::kPowerDepth));
    section.reach.squarings = where(has_squares, walk_.squarings(), L(-1));
    const T times = first(section.reach.squarings);
    section.reach.times = static_cast<int>(times);
    section.squared = Hard && Soft && times >= 0 && !any(~(section.reach.squarings == L(times)));
  }
  template <class Classes>
  KDLOSS_INLINE void add_section(Section& section, const Classes& x, bool plain_gaps) const {
    const bool is_mixed = Hard && Soft && !section.squared && any(L(0) <= section.reach.squarings);
    if (__builtin_expect(is_mixed || any(~section.reach.plain), 0)) {
      section.squared = false;
      return add_classes<false, Walk::kBeyond>(section, x);
    }
    with_squared(section, [&](auto is_squared) KDLOSS_INLINE_LAMBDA {
      if constexpr (Walk::kHasPlainGaps && is_squared.value) {
        if (plain_gaps) {
          add_classes<true, kPlain>(section, x);
          if (plain_gap_is_fit(frame_, first(section.sums.moved), first(section.sums.zt))) return;
        }
      }
      add_classes<is_squared.value, kExact>(section, x);
    });
  }
  template <bool Squared, Way way, class Classes>
  KDLOSS_INLINE void add_classes(Section& section, const Classes& x) const {
    Sums<L> sums;
    if (!is_distance_)
      add_terms<Hard, Soft, Squared, way>(x.groups, frame_, section.reach, x.labels, x.ahead, sums);
    else if constexpr (Hard)
      add_terms<true, false, false, way == kPlain ? kExact : way>(x.groups, frame_, section.reach, x.labels,
                                                                  x.ahead, sums);
    section.sums = Walk::template total<Hard, Soft>(sums);
  }
  template <class F>
  KDLOSS_INLINE void with_squared(const Section& section, F&& f) const {
    if constexpr (Hard && Soft)
      if (section.squared) return f(Constant<true>{});
    f(Constant<false>{});
  }
  KDLOSS_INLINE Number total_e1() const { return sums_.others + sums_.label; }

  // The soft loss, and where it is within reach.
  Flag find_soft(Number& soft) {
    if (walk_.divergence() == Divergence::kKL) return find_kl(soft);
    if (is_distance_) return find_distance(soft);
    if (walk_.wants_hessian()) return Number(0) < Number(0);
    Flag fit;
    with_divergence(walk_.divergence(), [&](auto wrapped) {
      using D = typename decltype(wrapped)::Type;
      if constexpr (!D::kIsDifference) fit = find_divergence(D(walk_.beta()), soft);
    });
    return fit;
  }
  Flag find_distance(Number& soft) {
    walk_.each_section([&](Section& section, const auto& x)
                           KDLOSS_INLINE_LAMBDA { section.soft = Walk::total(add_distance(x.groups)); });
    soft = Number(0);
    for (const Section& section : walk_.sections()) soft = soft + section.soft;
    soft = soft / Number(walk_.classes());
    return (Number(Limit::kLeastTerm) <= soft) & (soft < Number(Format<T>::kLargest));
  }
  template <class D>
  Flag find_divergence(const D& divergence, Number& soft) {
    const Number tau = walk_.exact_tau(), tau_log_ratio = Number(0) - soft_.log_ratio * tau;
    const L top_t = walk_.top_teacher(frame_.ms);
    Shared<T> row{frame_,
                  Frame<T>(frame_.ms, top_t, frame_.k, frame_.inverse_tau),
                  walk_.tau(),
                  Walk::lanes(tau_log_ratio),
                  Walk::lanes(sums_.zs * soft_.inverse_zt),
                  {}};
    const auto top =
        class_numbers(two_diff(frame_.ms, top_t), L(1), exp_normal(top_t - frame_.mt, frame_.k), row);
    row.top = {top.q, top.p, top.difference};
    walk_.each_section([&](Section& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      DivergenceSums<L> sums;
      add_divergence(divergence, x.groups, row, sums);
      section.soft = Walk::total(sums.terms), section.slopes = Walk::total(sums.slopes);
      section.least = Walk::smallest_number(sums.least);
    });
    Number terms(0), slopes(0), least(__builtin_inf());
    for (const Section& section : walk_.sections())
      terms = terms + section.soft, slopes = slopes + section.slopes, least = min(section.least, least);
    slope_unit_ = Number(1) / sums_.zs, mean_slope_ = slopes * slope_unit_;
    soft = terms * slope_unit_ * tau;
    Flag fit = walk_.flag(in_reach_) & (soft < Number(__builtin_inf())) &
               (Number(Limit::kTail) * tau * tau <= soft) & (divergence.near(tau_log_ratio, tau) <= soft) &
               (Number(Limit::kLeastTerm) <= abs(slopes));
    if constexpr (D::kHasSigns)
      fit = fit & (Number(kSign * Format<T>::kHalfUlp) * (abs(tau_log_ratio) + soft / tau) <= least);
    return fit & ~walk_.flag(balanced(mean_slope_));
  }

  // Whether the sum of what lies in the place of de balances, so that the errors of its terms count.
  Mask<T> balanced(Number mean) const {
    const L depth = (frame_.mt - extent_.lowest_t) * walk_.inverse_tau(), zs = Walk::lanes(sums_.zs);
    const Mask<T> wanted = uses_soft_ & may_balance<T>(static_cast<T>(walk_.classes()), depth, zs);
    if (!any(wanted)) return wanted;
    Balance<T> balance;
    const L ratio = Walk::lanes(mean);
    walk_.each_groups([&](const Groups<T>& groups) KDLOSS_INLINE_LAMBDA {
      groups.each([&](std::int64_t i, std::int64_t) KDLOSS_INLINE_LAMBDA {
        balance.add(load(groups.terms + i), load(groups.terms + groups.apart + i), ratio);
      });
    });
    return wanted & balances(Walk::sum_in_row(balance.growth), Walk::largest_in_row(balance.most), depth, zs);
  }

  // As find_divergence, for KL, which has a sum that needs no reading of the classes where the row is far
  // from its teacher.
  Flag find_kl(Number& soft) {
    const Number tau = walk_.exact_tau();
    soft = soft_.kl * tau * tau;
    const Flag fit = abs(soft) < Number(__builtin_inf());  // not NaN, nor beyond the type's range
    const Flag far = kl_is_far(soft_.kl, abs(soft_.log_ratio));
    if (!any(~far)) return fit;
    const Number tau_log_ratio = Number(0) - soft_.log_ratio * tau;
    const NearFactors<T> factor{Walk::lanes(Number(1) / sums_.zs), Walk::lanes(soft_.inverse_zt),
                                Walk::lanes(tau_log_ratio), walk_.tau()};
    walk_.each_section([&](Section& section, const auto& x) KDLOSS_INLINE_LAMBDA {
      section.soft = Walk::total(near_terms(x.groups, frame_, factor, section.reach.plain));
    });
    Number near(0);
    for (const Section& section : walk_.sections()) near = near + section.soft;
    soft = where(far, soft, near);
    return fit & (far | (walk_.flag(in_reach_) & are_equal(sums_, soft)) |
                  near_kl_is_fit(soft, tau_log_ratio * tau_log_ratio, tau, Number(Limit::kTail)));
  }

  // D, for the gradient.
  Number growth() const {
    const Mask<T> is_balanced = balanced(sums_.d / sums_.zs);
    return any(is_balanced) ? walk_.exact_growth(is_balanced, frame_, sums_.d) : sums_.d;
  }

  const Walk& walk_;
  const bool is_distance_;
  const Mask<T> uses_soft_, uses_softmax_;
  Extent<T> extent_;
  Frame<T> frame_;
  Mask<T> in_reach_;
  Sums<Number> sums_;
  SoftResult<Number> soft_;
  // Of divergences that have no gradient of KL's kind: 1 / Zs, and the mean of f less that of the top class.
  Number slope_unit_, mean_slope_;
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
