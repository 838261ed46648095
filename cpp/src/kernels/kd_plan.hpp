// What each row of a call needs, by its label.
#pragma once

#include "../kernel_table.hpp"
#include "lanes.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

struct RowLoss {
  double hard = 0, soft = 0;
};

// A class learns from both parts, -1 from the teacher alone, padding from nothing.
enum Kind { kLabelled, kUnlabelledRow, kPadding };
struct RowPlan {
  bool counts = false, hard = false, soft = false;
  double hard_weight = 0, soft_weight = 0;
};

template <class T>
struct Plans {
  const KdCall<T>& call;
  RowPlan plan[3];

  explicit Plans(const KdCall<T>& c) : call(c) {
    const bool teacher = c.teacher.data != nullptr;
    plan[kLabelled] = {true, c.alpha > 0 || c.both_parts, teacher && (c.alpha < 1 || c.both_parts), c.alpha,
                       1 - c.alpha};
    plan[kUnlabelledRow] = {true, false, teacher, 0, 1};
  }
  std::int64_t label(std::int64_t row) const { return call.labels[row * call.label_stride]; }
  Kind kind(std::int64_t row) const {
    if (call.labels == nullptr) return kUnlabelledRow;
    const std::int64_t y = label(row);
    return y == call.ignore_index ? kPadding : (y < 0 ? kUnlabelledRow : kLabelled);
  }
  const RowPlan& operator[](std::int64_t row) const { return plan[kind(row)]; }
};

struct Yes {
  static constexpr bool value = true;
};
struct No {
  static constexpr bool value = false;
};
// Calls f(hard, soft, grad) with the three as compile-time constants.
template <class F>
KDLOSS_INLINE auto with_parts(const RowPlan& plan, bool grad, F&& f) {
  if (plan.hard && plan.soft) return grad ? f(Yes{}, Yes{}, Yes{}) : f(Yes{}, Yes{}, No{});
  if (plan.hard) return grad ? f(Yes{}, No{}, Yes{}) : f(Yes{}, No{}, No{});
  return grad ? f(No{}, Yes{}, Yes{}) : f(No{}, Yes{}, No{});
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
