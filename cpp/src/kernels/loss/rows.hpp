// Rows of the loss: which parts each row needs, which of the two layouts computes it, and where its results
// go.
#pragma once

#include "../move/gather.hpp"
#include "../move/staging.hpp"
#include "by_lane.hpp"
#include "by_row.hpp"
#include "careful.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Writes what the caller wants to know of a row.
template <class T>
KDLOSS_INLINE void record_row(const KdCall<T>& call, std::int64_t row, const RowPlan& plan, RowParts parts) {
  const double absent = plan.counts ? __builtin_nan("") : 0;
  if (call.loss != nullptr) call.loss[row] = static_cast<T>(mixed(plan, parts));
  if (call.hard != nullptr) call.hard[row] = static_cast<T>(plan.hard ? parts.hard : absent);
  if (call.soft != nullptr) call.soft[row] = static_cast<T>(plan.soft ? parts.soft : absent);
}

// The sums over rows_per_sum rows.
struct SumOfRows {
  double loss, hard, soft, labelled;
};
// Writes the i-th.
KDLOSS_INLINE void record_sum(const KdSums& sums, std::int64_t i, const SumOfRows& x) {
  sums.loss[i] = x.loss;
  if (sums.hard != nullptr) sums.hard[i] = x.hard, sums.soft[i] = x.soft, sums.labelled[i] = x.labelled;
}

template <class T>
struct ScratchOf {
  double* careful;
  T* plain;
};

// ---- Rows in the lanes
// Puts harmless numbers where a row does not use its logits: it shares its loops with rows that do.
template <class T>
void hide_unused(Tile<T> tile, std::int64_t classes, const TileRows<T>& rows, bool any_soft) {
  using L = Lanes<T>;
  const Mask<T> soft = load(rows.uses_soft) == L(1), needed = (load(rows.uses_hard) == L(1)) | soft;
  for (std::int64_t c = 0; c < classes * L::kCount; c += L::kCount) {
    const L s = where(needed, load(tile.s + c), L(0));
    store(tile.s + c, s);
    if (any_soft) store(tile.t + c, where(soft, load(tile.t + c), s));
  }
}

// Has the careful path compute these rows, and others be 0.
template <class T>
void leave_to_careful(const KdCall<T>& call, Tile<T> tile, Mask<T> used, TileLoss<T>& loss) {
  using L = Lanes<T>;
  loss.set_zero(), loss.any_careful = true;
  store(loss.careful, where(used, L(1), L(0))), store(loss.careful_hess, L(0));
  for (std::int64_t c = 0; c < call.classes * L::kCount; c += L::kCount)
    store(tile.s + c, L(0)), store(tile.t + c, L(0));
}

// The sums of a tile's losses, which go to the caller too: rows [at, at + count) of a chunk.
template <class T>
KDLOSS_INLINE SumOfRows tile_sums(const KdCall<T>& call, const Chunk<T>& chunk, std::int64_t at, int count,
                                  TileRows<T>& rows, TileLoss<T>& loss) {
  using D = Lanes<double>;
  constexpr int n = Lanes<T>::kCount;
  for (int i = count; i < n; ++i) loss.hard[i] = loss.soft[i] = rows.target_rest[i] = 0;
  D loss_sum(0.0), hard_sum(0.0), soft_sum(0.0);
  for (int i = 0; i < n; i += D::kCount) {
    const D h = used(load(rows.target_sum + i), load(loss.hard + i)) + load(rows.target_rest + i);
    const D s = load(loss.soft + i), w = load(rows.weight + i);
    store(loss.hard + i, h);
    loss_sum = loss_sum + used(load(rows.hard_weight + i), h) + used(load(rows.soft_weight + i), s);
    if (call.both_parts) hard_sum = hard_sum + used(w, h), soft_sum = soft_sum + used(w, s);
  }
  if (call.loss != nullptr || call.hard != nullptr || call.soft != nullptr)
    for (int i = 0; i < count; ++i)
      record_row(call, chunk.first + at + i, rows.plan(i), {loss.hard[i], loss.soft[i]});
  if (!call.both_parts) return {sum(loss_sum), 0, 0, 0};
  double labelled = 0;
  for (int i = 0; i < count; ++i) labelled += rows.uses_hard[i] != 0 ? rows.weight[i] : 0;
  return {sum(loss_sum), sum(hard_sum), sum(soft_sum), labelled};
}

// Rows [at, at + count) of a chunk, at most as many as there are lanes. Inline, since with few classes a
// call is a share of the work.
template <class T>
KDLOSS_INLINE SumOfRows kd_tile(const KdCall<T>& call, const Chunk<T>& chunk, std::int64_t at, int count,
                                const Plans<T>& plans, TileRows<T>& rows, const ScratchOf<T>& scratch) {
  using L = Lanes<T>;
  constexpr int n = L::kCount;
  const std::int64_t classes = call.classes;
  const bool grad = call.grad.data != nullptr, hess = call.hess.data != nullptr;
  const Tile<T> tile(scratch.plain, classes);
  Mask<T> hard = load(rows.uses_hard) == L(1), soft = load(rows.uses_soft) == L(1);
  TileLoss<T> loss;
  if (any(hard | soft)) {
    gather(chunk.student, at, count, classes, tile.s);
    if (plans.blended()) {
      if (call.labels.are_soft()) gather(chunk.soft_labels, at, count, classes, tile.g);
      blend_tile(call, plans, tile, rows);
      hard = load(rows.uses_hard) == L(1), soft = load(rows.uses_soft) == L(1);
    }
  }
  const bool any_hard = any(hard), any_soft = any(soft);
  if (any_hard || any_soft) {
    if (any_soft) gather(chunk.teacher, at, count, classes, tile.t);
    if (any(any_soft ? ~soft : ~hard)) hide_unused(tile, classes, rows, any_soft);
    // What lies behind the last tile may be another thread's, and a line to write would be taken from it.
    static constexpr Chunk<T> kNothing{};
    const Chunk<T>& ahead = at + n < chunk.count ? chunk : kNothing;
    const NextTile<T> next{{ahead.student, at, classes, tile.s},
                           {ahead.teacher, at, classes, tile.t},
                           {ahead.grad, at, classes, tile.s}};
    if (any_soft && call.divergence != Divergence::kKL)
      leave_to_careful(call, tile, hard | soft, loss);
    else
      with_parts(any_hard, any_soft, [&](auto with_hard, auto with_soft) {
        const Rows<with_hard.value, with_soft.value, T> in_lanes(call, tile, rows, next);
        in_lanes.losses(loss);
        if (grad) in_lanes.write_gradient();
        if (hess) in_lanes.write_hessian();
      });
    for (int i = 0; __builtin_expect(loss.any_careful, 0) && i < count; ++i) {
      if (loss.careful[i] == 0) continue;
      const RowParts parts = careful_row(call, chunk, at + i, rows.plan(i), scratch.careful,
                                         grad ? tile.s + i : nullptr, hess ? tile.t + i : nullptr, n);
      loss.hard[i] = parts.hard, loss.soft[i] = parts.soft;
    }
    for (int i = 0; hess && i < count; ++i)
      if (loss.careful_hess[i] != 0 && loss.careful[i] == 0)
        careful_row<T>(call, chunk, at + i, rows.plan(i), scratch.careful, nullptr, tile.t + i, n);
    if (grad && plans.blended()) {
      const L weight = rows.in_target_units(rows.hard_weight, call.grad_scale);
      for (std::int64_t c = 0; c < classes * n; c += n)
        store(tile.s + c, load(tile.s + c) - weight * load(tile.g + c));
    }
  } else {
    loss.set_zero();
    for (std::int64_t c = 0; grad && c < classes; ++c)
      store(tile.s + c * n, L(0)), store(tile.t + c * n, L(0));
  }
  if (grad) scatter(tile.s, at, count, classes, chunk.grad);
  if (hess) scatter(tile.t, at, count, classes, chunk.hess);
  return tile_sums(call, chunk, at, count, rows, loss);
}

template <class T>
void kd_lanes(const KdCall<T>& call, const Chunk<T>& chunk, const ScratchOf<T>& scratch) {
  constexpr int n = Lanes<T>::kCount;
  const Plans<T> plans(call);
  TileRows<T> rows;
  rows.set_all(Temperature<T>(call.tau));
  for (std::int64_t at = 0; at < chunk.count; at += n) {
    const std::int64_t first = chunk.first + at;
    const int count = static_cast<int>(chunk.count - at < n ? chunk.count - at : n);
    rows.fill(call, plans, first, count);
    record_sum(call.sums, first / n, kd_tile(call, chunk, at, count, plans, rows, scratch));
  }
}

// ---- One row at a time
// Row i of a chunk by the plain path. False, with nothing written, where it is beyond its reach.
template <bool Hard, bool Soft, class T>
bool plain_row(const KdCall<T>& call, const Chunk<T>& chunk, std::int64_t i, const RowPlan& plan,
               const RowInput<T>& input, T* hess, const Temperature<T>& temperature,
               const Temperature<double>& exact, const RowScratch<T>& plain, double* careful,
               RowParts& parts) {
  Row<Hard, Soft, T> row(call, input, temperature, exact, plain);
  if (!row.losses(parts)) return false;
  const bool whole = hess == nullptr || row.probabilities_are_whole(plan);
  // Before the gradient, which may be written in the student's place.
  if (!whole) careful_row<T>(call, chunk, i, plan, careful, nullptr, hess, 1);
  if (input.grad != nullptr) row.write_gradient(plan);
  if (hess != nullptr && whole) row.write_hessian(plan, hess);
  return true;
}

template <class T>
void kd_row_by_row(const KdCall<T>& call, const Chunk<T>& chunk, const ScratchOf<T>& scratch) {
  const std::int64_t classes = call.classes;
  Temperature<T> temperature(call.tau);
  Temperature<double> exact(call.tau);
  const Plans<T> plans(call);
  const RowScratch<T> plain_scratch(scratch.plain, classes);
  T* const target = scratch.plain + RowScratch<T>::size(classes);
  const std::int64_t ahead = block_count(classes) > 1 ? kBlock : chunk.student.row_stride;

  for (std::int64_t i = 0; i < chunk.count; ++i) {
    const std::int64_t r = chunk.first + i;
    RowPlan plan = plans[r];
    const T* const s = at(chunk.student, i);
    T* const grad = chunk.grad.data == nullptr ? nullptr : at(chunk.grad, i);
    T* const hess = chunk.hess.data == nullptr ? nullptr : at(chunk.hess, i);
    if (plan.hard && plans.blended()) blend_row(call, plans, s, chunk.soft_labels, i, target, plan);
    RowParts parts;
    if (plan.hard || plan.soft) {
      if (call.taus != nullptr)
        temperature = Temperature<T>(call.taus[r]), exact = Temperature<double>(call.taus[r]);
      const RowInput<T> input{s, plan.soft ? at(chunk.teacher, i) : nullptr, plan.label, ahead, grad};
      const bool is_default = !plan.soft || call.divergence == Divergence::kKL;
      const bool plain =
          is_default && temperature.ordinary && with_parts(plan.hard, plan.soft, [&](auto hard, auto soft) {
            return plain_row<hard.value, soft.value>(call, chunk, i, plan, input, hess, temperature, exact,
                                                     plain_scratch, scratch.careful, parts);
          });
      if (!plain) parts = careful_row(call, chunk, i, plan, scratch.careful, grad, hess, 1);
      if (grad != nullptr && plan.blended)
        blend_gradient(grad, target, classes,
                       static_cast<T>(plan.hard_weight * plan.target_unit * call.grad_scale));
      parts = with_target(plan, parts);
    } else {
      for (std::int64_t c = 0; grad != nullptr && c < classes; ++c) grad[c] = 0;
      for (std::int64_t c = 0; hess != nullptr && c < classes; ++c) hess[c] = 0;
    }
    record_sum(call.sums, r,
               {mixed(plan, parts), used(plan.weight, parts.hard), used(plan.weight, parts.soft),
                plan.hard ? plan.weight : 0});
    record_row(call, r, plan, parts);
  }
}

// ---- Either

constexpr bool in_lanes(std::int64_t classes) { return classes <= kMostLaneClasses; }

// The scratch: the doubles of the careful path, which are aligned there; the layout's own; the copies.
template <class T>
std::int64_t careful_scratch(const KdCall<T>& call) {
  return CarefulRow::size(call.classes) * static_cast<std::int64_t>(sizeof(double) / sizeof(T));
}
template <class T>
std::int64_t copies_at(const KdCall<T>& call) {
  const std::int64_t plain =
      in_lanes(call.classes) ? Tile<T>::size(call.classes) : RowScratch<T>::size(call.classes) + call.classes;
  return careful_scratch(call) + (plain + 15) / 16 * 16;
}
template <class T>
std::int64_t kd_scratch(const KdCall<T>& call) {
  return copies_at(call) + Staging<T>(call, in_lanes(call.classes)).size();
}

template <class T>
void kd(const KdCall<T>& call, std::int64_t begin, std::int64_t end, T* memory) {
  const ScratchOf<T> scratch{reinterpret_cast<double*>(memory), memory + careful_scratch(call)};
  const bool lanes = in_lanes(call.classes);
  const Staging<T> staging(call, lanes);
  staging.for_chunks(begin, end, memory + copies_at(call), [&](const Chunk<T>& chunk) {
    if (lanes)
      kd_lanes(call, chunk, scratch);
    else
      kd_row_by_row(call, chunk, scratch);
  });
}
template <class T>
std::int64_t rows_per_sum(std::int64_t classes) {
  return in_lanes(classes) ? Lanes<T>::kCount : 1;
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
