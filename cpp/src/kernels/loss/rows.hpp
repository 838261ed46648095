// Rows of the loss: which parts each row needs, which of the two layouts computes it, and where its results
// go.
#pragma once

#include "../move/gather.hpp"
#include "../move/staging.hpp"
#include "../row/blend.hpp"
#include "by_lane.hpp"
#include "by_row.hpp"
#include "careful.hpp"
#include "loss.hpp"

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

template <class T>
struct ScratchOf {
  double* careful;
  T* plain;
};

// ---- Rows in the lanes
// The losses of a tile's rows, and which rows need the careful path.
template <class T>
struct TileLoss {
  alignas(64) double hard[Lanes<T>::kCount], soft[Lanes<T>::kCount];
  // 1 where the row, or its Hessian alone, is beyond the plain path's reach. Set where any is (any_careful),
  // or where there is a Hessian.
  alignas(64) T careful[Lanes<T>::kCount], careful_hess[Lanes<T>::kCount];
  bool any_careful = false;
  void set_zero() {
    for (int i = 0; i < Lanes<T>::kCount; ++i) hard[i] = soft[i] = 0;
  }
};

// Replaces logits that a row does not use, which may be NaN, by harmless ones: other rows share its loops.
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

// Writes the losses of rows [at, at + count) of a chunk, and returns their sums.
template <class T>
KDLOSS_INLINE RowSums tile_sums(const KdCall<T>& call, const Chunk<T>& chunk, std::int64_t at, int count,
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

// The rows of a tile by the plain path. What lies beyond its reach is marked in `to`.
template <class T>
KDLOSS_INLINE void plain_tile(const ByLane<T>& walk, bool any_hard, bool any_soft, bool grad, T* hess,
                              TileLoss<T>& to) {
  using L = Lanes<T>;
  Loss<ByLane<T>> loss(walk, any_hard, any_soft);
  loss.find_extents();
  loss.find_exponentials();
  L hard(T(0)), soft(T(0));
  const Mask<T> fit = loss.find_losses(hard, soft), uses_hard = walk.uses_hard(any_hard),
                uses_soft = walk.uses_soft(any_soft);
  store_wide(to.hard, where(uses_hard, hard, L(0))), store_wide(to.soft, where(uses_soft, soft, L(0)));
  const Mask<T> careful = (uses_hard | uses_soft) & ~fit;
  to.any_careful = any(careful);
  if (hess != nullptr) store(to.careful_hess, where(loss.probabilities_are_normal(), L(0), L(1)));
  if (hess != nullptr || __builtin_expect(to.any_careful, 0)) store(to.careful, where(careful, L(1), L(0)));
  if (grad) loss.write_gradient();
  if (hess != nullptr) loss.write_hessian(hess);
}

// Rows [at, at + count) of a chunk, at most as many as there are lanes. Inline, since with few classes a
// call is a share of the work.
template <class T>
KDLOSS_INLINE RowSums kd_tile(const KdCall<T>& call, const Chunk<T>& chunk, std::int64_t at, int count,
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
      set_targets(rows, call, plans, tile.s, tile.g);
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
    plain_tile(ByLane<T>(call, tile, rows, next), any_hard, any_soft, grad, hess ? tile.t : nullptr, loss);
    for (int i = 0; __builtin_expect(loss.any_careful || hess, 0) && i < count; ++i) {
      const bool all = loss.careful[i] != 0;
      if (!all && (!hess || loss.careful_hess[i] == 0)) continue;
      const RowParts parts = careful_row(call, chunk, at + i, rows.plan(i), scratch.careful,
                                         grad && all ? tile.s + i : nullptr, hess ? tile.t + i : nullptr, n);
      if (all) loss.hard[i] = parts.hard, loss.soft[i] = parts.soft;
    }
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
    const int count = chunk.rows_of_tile(at);
    rows.fill(call, plans, first, count);
    call.sums[first / n] = kd_tile(call, chunk, at, count, plans, rows, scratch);
  }
}

// ---- One row at a time
// Row i of a chunk by the plain path. False, with nothing written, where it is beyond its reach.
template <class T>
bool plain_row(const KdCall<T>& call, const Chunk<T>& chunk, std::int64_t i, const RowPlan& plan,
               const ByRow<T>& walk, T* hess, double* careful, RowParts& parts) {
  Loss<ByRow<T>> loss(walk, plan.hard, plan.soft);
  loss.find_extents();
  loss.find_exponentials();
  Vector<double> hard(0.0), soft(0.0);
  if (any(~loss.find_losses(hard, soft))) return false;
  parts = {first(hard), first(soft)};
  const bool normal = hess == nullptr || !any(~loss.probabilities_are_normal());
  // Before the gradient, which may be written in the student's place.
  if (!normal) careful_row<T>(call, chunk, i, plan, careful, nullptr, hess, 1);
  if (walk.grad() != nullptr) loss.write_gradient();
  if (hess != nullptr && normal) loss.write_hessian(hess);
  return true;
}

template <class T>
void kd_row_by_row(const KdCall<T>& call, const Chunk<T>& chunk, const ScratchOf<T>& scratch) {
  const std::int64_t classes = call.classes;
  Temperature<T> temperature(call.tau);
  const Plans<T> plans(call);
  const RowScratch<T> plain_scratch(scratch.plain, classes);
  T* const target = scratch.plain + RowScratch<T>::size(classes);

  for (std::int64_t i = 0; i < chunk.count; ++i) {
    const std::int64_t r = chunk.first + i;
    RowPlan plan = plans[r];
    const T* const s = at(chunk.student, i);
    T* const grad = chunk.grad.data == nullptr ? nullptr : at(chunk.grad, i);
    T* const hess = chunk.hess.data == nullptr ? nullptr : at(chunk.hess, i);
    const T* const y = call.labels.are_soft() ? at(chunk.soft_labels, i) : nullptr;
    const bool blended = plan.hard && plans.blended() && set_target(plan, call, plans, s, y, target);
    RowParts parts;
    if (plan.hard || plan.soft) {
      if (call.taus != nullptr) temperature = Temperature<T>(call.taus[r]);
      const RowInput<T> input{s, plan.soft ? at(chunk.teacher, i) : s, chunk.student.row_stride, grad};
      const ByRow<T> walk(call, plan, input, temperature, plain_scratch);
      const bool plain =
          temperature.ordinary && plain_row(call, chunk, i, plan, walk, hess, scratch.careful, parts);
      if (!plain) parts = careful_row(call, chunk, i, plan, scratch.careful, grad, hess, 1);
      const T lost = static_cast<T>(plan.hard_weight * plan.target_unit * call.grad_scale);
      for (std::int64_t c = 0; grad != nullptr && blended && c < classes; ++c) grad[c] -= lost * target[c];
      parts = with_target(plan, parts);
    } else {
      for (std::int64_t c = 0; grad != nullptr && c < classes; ++c) grad[c] = 0;
      for (std::int64_t c = 0; hess != nullptr && c < classes; ++c) hess[c] = 0;
    }
    call.sums[r] = {mixed(plan, parts), used(plan.weight, parts.hard), used(plan.weight, parts.soft),
                    plan.hard ? plan.weight : 0};
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
