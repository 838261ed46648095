// Rows of the loss: which parts each row needs, which of the two layouts computes it, and where its results
// go.
#pragma once

#include "kd_by_lane.hpp"
#include "kd_by_row.hpp"
#include "kd_careful.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

// The loss of a row from its parts; a part of weight 0 is not used, infinite or not.
KDLOSS_INLINE double mixed(const RowPlan& plan, RowLoss parts) {
  return (plan.hard_weight == 0 ? 0 : plan.hard_weight * parts.hard) +
         (plan.soft_weight == 0 ? 0 : plan.soft_weight * parts.soft);
}

// Writes what the caller wants to know of a row.
template <class T>
KDLOSS_INLINE void record(const KdCall<T>& call, std::int64_t row, const RowPlan& plan, RowLoss parts) {
  const double absent = plan.counts ? __builtin_nan("") : 0;
  if (call.loss != nullptr) call.loss[row] = static_cast<T>(mixed(plan, parts));
  if (call.hard != nullptr) call.hard[row] = static_cast<T>(plan.hard ? parts.hard : absent);
  if (call.soft != nullptr) call.soft[row] = static_cast<T>(plan.soft ? parts.soft : absent);
}
KDLOSS_INLINE void add(KdSums& sums, const RowPlan& plan, RowLoss parts) {
  sums.loss += mixed(plan, parts), sums.hard += parts.hard, sums.soft += parts.soft;
}

template <class T>
void zero_gradient(const KdCall<T>& call, std::int64_t row) {
  if (call.grad.data != nullptr)
    for (std::int64_t c = 0; c < call.classes; ++c) *at(call.grad, row, c) = 0;
}

template <class T>
struct ScratchOf {
  double* careful;
  T* plain;
};

// ---- Rows in the lanes
// -----------------------------------------------------------------------------------------------

// Computes rows of one kind; parts[i] is what becomes of row first + i.
template <class T>
void lane_rows(const KdCall<T>& call, LaneRows<T> rows, const Plans<T>& plans, const RowPlan& plan,
               const Temperature<T>& temperature, const ScratchOf<T>& scratch, std::int64_t first,
               RowLoss* parts) {
  using L = Lanes<T>;
  const Tile<T> tile(scratch.plain, call.classes);
  gather(call.student, rows, call.classes, tile.s);
  if (plan.soft) gather(call.teacher, rows, call.classes, tile.t);
  alignas(64) T label[L::kCount];
  for (int i = 0; i < L::kCount; ++i)
    label[i] = i < rows.count && plan.hard ? static_cast<T>(plans.label(rows.row[i])) : T(-1);

  const bool grad = call.grad.data != nullptr;
  const T hard_weight = static_cast<T>(plan.hard_weight * call.grad_scale);
  const T soft_weight = static_cast<T>(plan.soft_weight * call.grad_scale);
  const TileLoss<T> loss = with_parts(plan, grad, [&](auto hard, auto soft, auto with_grad) {
    return kd_tile<hard.value, soft.value, with_grad.value>(tile, call.classes, load(label), temperature,
                                                            hard_weight, soft_weight);
  });

  alignas(64) T hard[L::kCount], soft[L::kCount];
  store(hard, loss.hard);
  store(soft, loss.soft);
  for (int i = 0; i < rows.count; ++i)
    parts[rows.row[i] - first] = {static_cast<double>(hard[i]), static_cast<double>(soft[i])};

  if (__builtin_expect(any(loss.careful) || !temperature.ordinary, 0)) {
    alignas(64) T careful[L::kCount];
    store(careful, where(loss.careful, L(1), L(temperature.ordinary ? 0 : 1)));
    for (int i = 0; i < rows.count; ++i) {
      if (careful[i] == 0) continue;
      const std::int64_t row = rows.row[i];
      parts[row - first] = careful_row(call, row, plan.hard ? plans.label(row) : -1, plan, scratch.careful);
      rows.drop(i);  // its gradient is written
    }
  }
  if (grad) scatter(tile.e1, rows, call.classes, call.grad);
}

template <class T>
void kd_lane_blocks(const KdCall<T>& call, std::int64_t begin, std::int64_t end,
                    const ScratchOf<T>& scratch) {
  constexpr int n = Lanes<T>::kCount;
  const Temperature<T> temperature(call.tau);
  const Plans<T> plans(call);
  for (std::int64_t first = begin; first < end; first += n) {
    const int count = static_cast<int>(end - first < n ? end - first : n);
    RowLoss parts[n];
    LaneRows<T> rows[3];
    Kind kind_of[n];
    for (int i = 0; i < count; ++i) {
      kind_of[i] = plans.kind(first + i);
      rows[kind_of[i]].push(first + i);
    }
    for (int kind = kLabelled; kind < kPadding; ++kind) {
      const RowPlan& plan = plans.plan[kind];
      if (rows[kind].count > 0 && (plan.hard || plan.soft))
        lane_rows(call, rows[kind], plans, plan, temperature, scratch, first, parts);
    }
    for (int i = 0; i < rows[kPadding].count; ++i) zero_gradient(call, rows[kPadding].row[i]);
    KdSums sums;
    for (int i = 0; i < count; ++i) add(sums, plans.plan[kind_of[i]], parts[i]);
    call.sums[first / n] = sums;
    if (call.loss != nullptr || call.hard != nullptr || call.soft != nullptr)
      for (int i = 0; i < count; ++i) record(call, first + i, plans.plan[kind_of[i]], parts[i]);
  }
}

// ---- One row at a time
// -----------------------------------------------------------------------------------------------

template <class T>
void kd_row_blocks(const KdCall<T>& call, std::int64_t begin, std::int64_t end, const ScratchOf<T>& scratch) {
  constexpr int n = Lanes<T>::kCount;
  const std::int64_t classes = call.classes;
  const Temperature<T> temperature(call.tau);
  const Plans<T> plans(call);
  const Scratch<T> row_scratch{scratch.plain, scratch.plain + classes, scratch.plain + 2 * classes};
  T* const student_block = scratch.plain + 3 * classes;
  T* const teacher_block = student_block + n * classes;
  T* const grad_block = teacher_block + n * classes;
  const bool pack_student = call.student.class_stride != 1;
  const bool pack_teacher = call.teacher.data != nullptr && call.teacher.class_stride != 1;
  const bool pack_grad = call.grad.data != nullptr && call.grad.class_stride != 1;

  for (std::int64_t first = begin; first < end; first += n) {
    const std::int64_t count = end - first < n ? end - first : n;
    if (pack_student) pack_rows(call.student, first, count, classes, student_block);
    if (pack_teacher) pack_rows(call.teacher, first, count, classes, teacher_block);
    bool careful[n] = {};
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t r = first + i;
      const RowPlan& plan = plans[r];
      const std::int64_t label = plan.hard ? plans.label(r) : -1;
      T* const grad =
          pack_grad ? grad_block + i * classes : (call.grad.data != nullptr ? at(call.grad, r) : nullptr);
      RowLoss parts;
      if (plan.hard || plan.soft) {
        const RowInput<T> row{
            pack_student ? student_block + i * classes : at(call.student, r),
            pack_teacher ? teacher_block + i * classes : (plan.soft ? at(call.teacher, r) : nullptr), label};
        careful[i] = !temperature.ordinary ||
                     !with_parts(plan, grad != nullptr, [&](auto hard, auto soft, auto with_grad) {
                       return kd_row<hard.value, soft.value, with_grad.value>(call, row, grad, temperature,
                                                                              plan, row_scratch, parts);
                     });
        if (careful[i]) parts = careful_row(call, r, label, plan, scratch.careful);
      } else if (grad != nullptr) {
        for (std::int64_t c = 0; c < classes; ++c) grad[c] = 0;
      }
      KdSums sums;
      add(sums, plan, parts);
      call.sums[r] = sums;
      record(call, r, plan, parts);
    }
    if (pack_grad) unpack_rows(grad_block, first, count, classes, careful, call.grad);
  }
}

// ---- Either
// --------------------------------------------------------------------------------------------------------

template <class T>
bool in_lanes(std::int64_t classes) {
  return classes <= kMostLaneClasses;
}

template <class T>
std::int64_t plain_scratch(const KdCall<T>& call) {
  if (in_lanes<T>(call.classes)) return Tile<T>::size(call.classes);
  const bool pack =
      call.student.class_stride != 1 || call.teacher.class_stride != 1 || call.grad.class_stride != 1;
  return call.classes * (3 + (pack ? 3 * Lanes<T>::kCount : 0));
}
// The doubles of the careful path lie first, where they are aligned.
template <class T>
std::int64_t careful_scratch(const KdCall<T>& call) {
  return CarefulRow::size(call.classes) * static_cast<std::int64_t>(sizeof(double) / sizeof(T));
}
template <class T>
std::int64_t kd_scratch(const KdCall<T>& call) {
  return careful_scratch(call) + plain_scratch(call);
}

template <class T>
void kd(const KdCall<T>& call, std::int64_t begin, std::int64_t end, T* memory) {
  const ScratchOf<T> scratch{reinterpret_cast<double*>(memory), memory + careful_scratch(call)};
  if (in_lanes<T>(call.classes))
    kd_lane_blocks(call, begin, end, scratch);
  else
    kd_row_blocks(call, begin, end, scratch);
}
template <class T>
std::int64_t rows_per_sum(std::int64_t classes) {
  return in_lanes<T>(classes) ? Lanes<T>::kCount : 1;
}

}  // namespace
}  // namespace KDLOSS_ISA
}  // namespace kdloss
