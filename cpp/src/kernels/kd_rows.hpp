// Rows of the loss: which parts each row needs, which of the two layouts computes it, and where its results
// go.
#pragma once

#include "kd_by_lane.hpp"
#include "kd_by_row.hpp"
#include "kd_careful.hpp"

namespace kdloss {
namespace KDLOSS_ISA {
namespace {

// Writes what the caller wants to know of a row.
template <class T>
KDLOSS_INLINE void record(const KdCall<T>& call, std::int64_t row, const RowPlan& plan, RowLoss parts) {
  const double absent = plan.counts ? __builtin_nan("") : 0;
  if (call.loss != nullptr) call.loss[row] = static_cast<T>(mixed(plan, parts));
  if (call.hard != nullptr) call.hard[row] = static_cast<T>(plan.hard ? parts.hard : absent);
  if (call.soft != nullptr) call.soft[row] = static_cast<T>(plan.soft ? parts.soft : absent);
}

template <class T>
struct ScratchOf {
  double* careful;
  T* plain;
};

// ---- Rows in the lanes
// What rows [first, first + count) need. Empty lanes need nothing.
template <class T>
void set_rows(const Plans<T>& plans, std::int64_t first, int count, TileRows<T>& rows) {
  for (int i = 0; i < TileRows<T>::kCount; ++i) {
    const RowPlan plan = i < count ? plans[first + i] : RowPlan{};
    rows.label[i] = static_cast<T>(plan.label);
    rows.uses_hard[i] = plan.hard, rows.uses_soft[i] = plan.soft;
    rows.hard_weight[i] = plan.hard_weight, rows.soft_weight[i] = plan.soft_weight;
  }
}

// Puts harmless numbers where a row does not use its logits: it shares its loops with rows that do.
template <class T>
void hide_unused(const Tile<T>& tile, std::int64_t classes, const TileRows<T>& rows, bool any_soft) {
  using L = Lanes<T>;
  const Mask<T> soft = load(rows.uses_soft) == L(1), needed = (load(rows.uses_hard) == L(1)) | soft;
  for (std::int64_t c = 0; c < classes * L::kCount; c += L::kCount) {
    const L s = where(needed, load(tile.s + c), L(0));
    store(tile.s + c, s);
    if (any_soft) store(tile.t + c, where(soft, load(tile.t + c), s));
  }
}

// Rows [first, first + count), at most as many as there are lanes.
template <class T>
KdSums lane_rows(const KdCall<T>& call, std::int64_t first, int count, const Plans<T>& plans,
                 const TileRows<T>& rows, const Temperature<T>& temperature, const ScratchOf<T>& scratch) {
  using L = Lanes<T>;
  using D = Lanes<double>;
  constexpr int n = L::kCount;
  const std::int64_t classes = call.classes;
  const bool grad = call.grad.data != nullptr;
  const Mask<T> hard = load(rows.uses_hard) == L(1), soft = load(rows.uses_soft) == L(1);
  const bool any_hard = any(hard), any_soft = any(soft);
  const Tile<T> tile(scratch.plain, classes);
  TileLoss<T> loss;
  if (any_hard || any_soft) {
    gather(call.student, first, count, classes, tile.s);
    if (any_soft) gather(call.teacher, first, count, classes, tile.t);
    if ((any_hard && any(~hard)) || (any_soft && any(~soft))) hide_unused(tile, classes, rows, any_soft);
    with_parts(any_hard, any_soft, grad, [&](auto with_hard, auto with_soft, auto with_grad) {
      kd_tile<with_hard.value, with_soft.value, with_grad.value>(tile, classes, rows, temperature,
                                                                 call.grad_scale, loss);
    });
    for (int i = 0; __builtin_expect(loss.any_careful, 0) && i < count; ++i) {
      if (loss.careful[i] == 0) continue;
      const RowLoss parts = careful_row(call, first + i, plans[first + i], scratch.careful, tile.s + i, n);
      loss.hard[i] = parts.hard, loss.soft[i] = parts.soft;
    }
  } else if (grad) {
    for (std::int64_t c = 0; c < classes; ++c) store(tile.s + c * n, L(0));
  }
  if (grad) scatter(tile.s, first, count, classes, call.grad);

  if (call.loss != nullptr || call.hard != nullptr || call.soft != nullptr)
    for (int i = 0; i < count; ++i) record(call, first + i, plans[first + i], {loss.hard[i], loss.soft[i]});
  D loss_sum(0.0), hard_sum(0.0), soft_sum(0.0);
  for (int i = 0; i < n; i += D::kCount) {
    const D h = load(loss.hard + i), s = load(loss.soft + i);
    loss_sum = loss_sum + weighted(load(rows.hard_weight + i), h) + weighted(load(rows.soft_weight + i), s);
    hard_sum = hard_sum + h, soft_sum = soft_sum + s;
  }
  return {sum(loss_sum), sum(hard_sum), sum(soft_sum)};
}

template <class T>
void kd_lane_blocks(const KdCall<T>& call, std::int64_t begin, std::int64_t end,
                    const ScratchOf<T>& scratch) {
  constexpr int n = Lanes<T>::kCount;
  const Temperature<T> temperature(call.tau);
  const Plans<T> plans(call);
  TileRows<T> rows;
  bool usual = false;  // rows says what it says for a whole tile of labelled rows
  for (std::int64_t first = begin; first < end; first += n) {
    const int count = static_cast<int>(end - first < n ? end - first : n);
    const bool labelled = count == n && plans.labels(first, n, rows.label);
    if (!labelled || !usual) set_rows(plans, first, count, rows);
    usual = labelled;
    call.sums[first / n] = lane_rows(call, first, count, plans, rows, temperature, scratch);
  }
}

// ---- One row at a time
template <class T>
void kd_row_blocks(const KdCall<T>& call, std::int64_t begin, std::int64_t end, const ScratchOf<T>& scratch) {
  const std::int64_t classes = call.classes, n = pack_rows_at_once<T>(classes);
  const Temperature<T> temperature(call.tau);
  const Temperature<double> exact(call.tau);
  const Plans<T> plans(call);
  const RowScratch<T> row_scratch(reinterpret_cast<double*>(scratch.plain), classes);
  T* const student_block = scratch.plain + RowScratch<T>::size(classes);
  T* const teacher_block = student_block + (call.rows < n ? call.rows : n) * classes;
  T* const grad_block = student_block;  // a row's gradient may take the place of its student
  const bool with_grad = call.grad.data != nullptr;
  const bool pack_student = call.student.class_stride != 1;
  const bool pack_teacher = call.teacher.data != nullptr && call.teacher.class_stride != 1;
  const bool pack_grad = with_grad && call.grad.class_stride != 1;
  const std::int64_t ahead =
      block_count(classes) > 1 ? kBlock : (pack_student ? classes : call.student.row_stride);

  for (std::int64_t first = begin; first < end; first += n) {
    const std::int64_t count = end - first < n ? end - first : n;
    if (pack_student) pack_rows(call.student, first, count, classes, student_block);
    if (pack_teacher) pack_rows(call.teacher, first, count, classes, teacher_block);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t r = first + i;
      const RowPlan plan = plans[r];
      T* const grad = pack_grad ? grad_block + i * classes : (with_grad ? at(call.grad, r) : nullptr);
      RowLoss parts;
      if (plan.hard || plan.soft) {
        const RowInput<T> row{
            pack_student ? student_block + i * classes : at(call.student, r),
            pack_teacher ? teacher_block + i * classes : (plan.soft ? at(call.teacher, r) : nullptr),
            plan.label, ahead};
        const bool plain = temperature.ordinary &&
                           with_parts(plan.hard, plan.soft, with_grad, [&](auto hard, auto soft, auto keep) {
                             return kd_row<hard.value, soft.value, keep.value>(
                                 call, row, grad, temperature, exact, plan, row_scratch, parts);
                           });
        if (!plain) parts = careful_row(call, r, plan, scratch.careful, grad, 1);
      } else if (with_grad) {
        for (std::int64_t c = 0; c < classes; ++c) grad[c] = 0;
      }
      call.sums[r] = {mixed(plan, parts), parts.hard, parts.soft};
      record(call, r, plan, parts);
    }
    if (pack_grad) unpack_rows(grad_block, first, count, classes, call.grad);
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
  const std::int64_t most = pack_rows_at_once<T>(call.classes), packed = call.rows < most ? call.rows : most;
  return RowScratch<T>::size(call.classes) + (pack ? 2 * call.classes * packed : 0);
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
