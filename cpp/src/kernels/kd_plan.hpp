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

// Which parts a row needs, and their weights. A class learns from both parts, -1 from the teacher alone,
// padding from nothing.
struct RowPlan {
  bool counts = false, hard = false, soft = false;
  double hard_weight = 0, soft_weight = 0;
  std::int64_t label = -1;
};

template <class T>
class Plans {
 public:
  explicit Plans(const KdCall<T>& call) : call_(call) {
    const bool teacher = call.teacher.data != nullptr;
    labelled_ = {true, call.alpha > 0 || call.both_parts, teacher && (call.alpha < 1 || call.both_parts),
                 call.alpha, 1 - call.alpha};
    unlabelled_ = {true, false, teacher, 0, 1};
  }
  RowPlan operator[](std::int64_t row) const {
    RowPlan plan = labelled_;
    plan.label = label(row);
    return is_class(plan.label) ? plan : without_class(plan.label);
  }
  // Writes the labels of some rows and says whether all are classes, so that all rows have the plan
  // labelled(); stops at the first that is not.
  bool labels(std::int64_t first, int count, T* to) const {
    bool all = call_.labels != nullptr;
    for (int i = 0; i < count && all; ++i) {
      const std::int64_t y = label(first + i);
      to[i] = static_cast<T>(y), all = is_class(y);
    }
    return all;
  }
  const RowPlan& labelled() const { return labelled_; }

 private:
  std::int64_t label(std::int64_t row) const {
    return call_.labels == nullptr ? -1 : call_.labels[row * call_.label_stride];
  }
  bool is_class(std::int64_t label) const { return label >= 0 && label != call_.ignore_index; }
  RowPlan without_class(std::int64_t label) const {
    return call_.labels != nullptr && label == call_.ignore_index ? RowPlan{} : unlabelled_;
  }

  const KdCall<T>& call_;
  RowPlan labelled_, unlabelled_;
};

// The loss of a row from its parts; a part of weight 0 is not used, infinite or not.
KDLOSS_INLINE double mixed(const RowPlan& plan, RowLoss parts) {
  return (plan.hard_weight == 0 ? 0 : plan.hard_weight * parts.hard) +
         (plan.soft_weight == 0 ? 0 : plan.soft_weight * parts.soft);
}

struct Yes {
  static constexpr bool value = true;
};
struct No {
  static constexpr bool value = false;
};
// Calls f(hard, soft, grad) with the three as compile-time constants.
template <class F>
KDLOSS_INLINE auto with_parts(bool hard, bool soft, bool grad, F&& f) {
  if (hard && soft) return grad ? f(Yes{}, Yes{}, Yes{}) : f(Yes{}, Yes{}, No{});
  if (hard) return grad ? f(Yes{}, No{}, Yes{}) : f(Yes{}, No{}, No{});
  return grad ? f(No{}, Yes{}, Yes{}) : f(No{}, Yes{}, No{});
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
