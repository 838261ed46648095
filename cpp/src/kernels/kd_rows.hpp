// Rows of the loss: which parts each row needs, which of the two layouts computes it, and where its results
// go.
#pragma once

#include "kd_by_lane.hpp"
#include "kd_by_row.hpp"
#include "kd_careful.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Writes what the caller wants to know of a row.
template <class T>
KDLOSS_INLINE void record(const KdCall<T>& call, std::int64_t row, const RowPlan& plan, RowParts parts) {
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

template <class T>
double tau_of(const KdCall<T>& call, std::int64_t row) {
  return call.taus == nullptr ? call.tau : call.taus[row];
}

// ---- Rows in the lanes
// What rows [first, first + count) need. Lanes without a row repeat the last one, so that they cost no branch
// of their own; what comes of them is not used.
template <class T>
void set_rows(const KdCall<T>& call, const Plans<T>& plans, std::int64_t first, int count,
              TileRows<T>& rows) {
  // Where nothing but the label is a row's own, only rows without a class need a plan of their own.
  if (plans.uniform()) rows.set_all(plans.labelled(1, call.alpha), call.grad_scale);
  for (int i = 0; i < TileRows<T>::kCount; ++i) {
    const std::int64_t row = first + (i < count ? i : count - 1);
    if (plans.uniform() && plans.has_class(row)) {
      rows.label[i] = static_cast<T>(call.labels[row]);
      continue;
    }
    const RowPlan plan = plans[row];
    rows.set(i, plan, call.grad_scale);
    // A row that does not count may hold any temperature.
    if (call.taus != nullptr) rows.set(i, Temperature<T>(plan.counts ? tau_of(call, row) : 1));
  }
}

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

// Rows of any matrix into a tile, one to a lane, and out of it; block has room for as many rows.
template <class T>
void fill_tile(const AnyView& from, std::int64_t first, int count, std::int64_t classes, T* tile, T* block) {
  if (from.type == kScalar<T>) return gather(typed<T>(from), first, count, classes, tile);
  read_rows(from, first, count, classes, block);
  gather(Matrix<const T>{block, block_stride<T>(classes), 1}, 0, count, classes, tile);
}
template <class T>
void empty_tile(const T* tile, std::int64_t first, int count, std::int64_t classes, const Output& to,
                T* block) {
  if (to.type == kScalar<T>) return scatter(tile, first, count, classes, typed<T>(to));
  scatter(tile, 0, count, classes, Matrix<T>{block, block_stride<T>(classes), 1});
  write_rows(block, first, count, classes, to);
}

// Rows [first, first + count), at most as many as there are lanes. (Inline: a call costs ten classes 3 %.)
template <class T>
KDLOSS_INLINE KdSums lane_rows(const KdCall<T>& call, std::int64_t first, int count, const Plans<T>& plans,
                               TileRows<T>& rows, const ScratchOf<T>& scratch) {
  using L = Lanes<T>;
  using D = Lanes<double>;
  constexpr int n = L::kCount;
  const std::int64_t classes = call.classes;
  const bool grad = call.grad.data != nullptr, hess = call.hess.data != nullptr;
  const Tile<T> tile(scratch.plain, classes);
  T* const block = scratch.plain + Tile<T>::size(classes);
  Mask<T> hard = load(rows.uses_hard) == L(1), soft = load(rows.uses_soft) == L(1);
  TileLoss<T> loss;
  if (any(hard | soft)) {
    fill_tile(call.student, first, count, classes, tile.s, block);
    if (plans.blended()) {
      if (call.labels.are_soft()) fill_tile(call.labels.probabilities, first, count, classes, tile.g, block);
      blend_tile(call, plans, tile, rows);
      hard = load(rows.uses_hard) == L(1), soft = load(rows.uses_soft) == L(1);
    }
  }
  const bool any_hard = any(hard), any_soft = any(soft);
  if (any_hard || any_soft) {
    if (any_soft) fill_tile(call.teacher, first, count, classes, tile.t, block);
    if (any(any_soft ? ~soft : ~hard)) hide_unused(tile, classes, rows, any_soft);
    const NextTile<T> next{{call.student, first, classes, tile.s},
                           {call.teacher, first, classes, tile.t},
                           {call.grad, first, classes, tile.s}};
    with_parts(any_hard, any_soft, [&](auto with_hard, auto with_soft) {
      kd_tile<with_hard.value, with_soft.value>(tile, call, rows, next, loss);
    });
    for (int i = 0; __builtin_expect(loss.any_careful, 0) && i < count; ++i) {
      if (loss.careful[i] == 0) continue;
      const RowParts parts = careful_row(call, first + i, rows.plan(i), tau_of(call, first + i),
                                         scratch.careful, tile.s + i, hess ? tile.t + i : nullptr, n);
      loss.hard[i] = parts.hard, loss.soft[i] = parts.soft;
    }
    for (int i = 0; hess && i < count; ++i)
      if (loss.careful_hess[i] != 0 && loss.careful[i] == 0)
        careful_row<T>(call, first + i, rows.plan(i), tau_of(call, first + i), scratch.careful, nullptr,
                       tile.t + i, n);
    if (grad && plans.blended()) {
      L weight;
      load_narrow(rows.hard_weight, weight);
      weight = weight * L(static_cast<T>(call.grad_scale));
      for (std::int64_t c = 0; c < classes * n; c += n)
        store(tile.s + c, load(tile.s + c) - weight * load(tile.g + c));
    }
  } else {
    loss.set_zero();
    for (std::int64_t c = 0; grad && c < classes; ++c)
      store(tile.s + c * n, L(0)), store(tile.t + c * n, L(0));
  }
  if (grad) empty_tile(tile.s, first, count, classes, call.grad, block);
  if (hess) empty_tile(tile.t, first, count, classes, call.hess, block);

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
    for (int i = 0; i < count; ++i) record(call, first + i, rows.plan(i), {loss.hard[i], loss.soft[i]});
  if (!call.both_parts) return {sum(loss_sum), 0, 0, 0};
  double labelled = 0;
  for (int i = 0; i < count; ++i) labelled += rows.uses_hard[i] != 0 ? rows.weight[i] : 0;
  return {sum(loss_sum), sum(hard_sum), sum(soft_sum), labelled};
}

// A tile, and a block to convert rows in.
template <class T>
std::int64_t lane_scratch(std::int64_t classes) {
  return Tile<T>::size(classes) + block_stride<T>(classes) * Lanes<T>::kCount;
}

template <class T>
void kd_lane_blocks(const KdCall<T>& call, std::int64_t begin, std::int64_t end,
                    const ScratchOf<T>& scratch) {
  constexpr int n = Lanes<T>::kCount;
  const Plans<T> plans(call);
  TileRows<T> rows;
  rows.set_all(Temperature<T>(call.tau));
  bool usual = false;  // rows says what it says for rows that are all alike
  for (std::int64_t first = begin; first < end; first += n) {
    const int count = static_cast<int>(end - first < n ? end - first : n);
    const bool alike = plans.all_alike(first, count, rows.label) && (count == n || plans.uniform());
    if (!alike)
      set_rows(call, plans, first, count, rows);
    else if (plans.weighted())
      rows.set_each(call, first);
    else if (!usual)
      rows.set_all(plans[first], call.grad_scale);
    for (int i = count; alike && i < n; ++i) rows.label[i] = rows.label[count - 1];
    usual = alike && !plans.blended();
    call.sums[first / n] = lane_rows(call, first, count, plans, rows, scratch);
  }
}

// The same by way of copies, of some rows at a time, where the arrays' own lines do not stay in the caches.
template <class T>
struct Slab {
  static constexpr std::int64_t kRows = 128, kStride = kRows + Lanes<T>::kCount;  // no whole pages
  T *s, *t;
  Slab(T* memory, std::int64_t classes) : s(memory), t(s + classes * kStride) {}
  static bool is_wanted(const KdCall<T>& call) {
    constexpr std::int64_t kFew = 24;  // classes whose lines do stay
    return call.classes > kFew && lies_in_whole_pages<T>(call.student) &&
           (call.teacher.data == nullptr || lies_in_whole_pages<T>(call.teacher)) &&
           (call.grad.data == nullptr || lies_in_whole_pages<T>(call.grad));
  }
  static std::int64_t size(const KdCall<T>& call) { return is_wanted(call) ? 2 * call.classes * kStride : 0; }
};

template <class T>
void kd_lane_slabs(const KdCall<T>& call, std::int64_t begin, std::int64_t end, const ScratchOf<T>& scratch) {
  constexpr std::int64_t stride = Slab<T>::kStride;
  const std::int64_t classes = call.classes;
  const Slab<T> slab(scratch.plain + lane_scratch<T>(classes), classes);
  const auto s = typed<T>(call.student), t = typed<T>(call.teacher);
  const auto grad = typed<T>(call.grad);
  KdCall<T> near = call;
  near.student.class_stride = near.teacher.class_stride = near.grad.class_stride = stride;
  for (std::int64_t first = begin, count; first < end; first += count) {
    count = end - first < Slab<T>::kRows ? end - first : Slab<T>::kRows;
    copy_columns(at(s, first), s.class_stride, slab.s, stride, count, classes);
    near.student.data = moved_by(slab.s, -first);
    if (t.data != nullptr) {
      copy_columns(at(t, first), t.class_stride, slab.t, stride, count, classes);
      near.teacher.data = moved_by(slab.t, -first);
    }
    if (grad.data != nullptr) near.grad.data = moved_by(slab.s, -first);
    kd_lane_blocks(near, first, first + count, scratch);
    if (grad.data != nullptr)
      copy_columns<T>(slab.s, stride, at(grad, first), grad.class_stride, count, classes);
  }
}

// ---- One row at a time
// Rows that are not where a row can be read or written in place have one there, in blocks of the scratch.
template <class T>
struct RowBlocks {
  bool together = false;              // a cache line holds several rows of a class
  bool student, teacher, grad, hess;  // which need one
  T *s, *t, *h, *target;
  explicit RowBlocks(const KdCall<T>& call)
      : student(needs_one(call.student)),
        teacher(needs_one(call.teacher)),
        grad(needs_one(call.grad)),
        hess(needs_one(call.hess)) {}
  // A row's gradient may take the place of its student.
  std::int64_t size(const KdCall<T>& call) const {
    return call.classes + rows(call) * block_stride<T>(call.classes) * ((student || grad) + teacher + hess);
  }
  std::int64_t rows(const KdCall<T>& call) const {
    const std::int64_t most = pack_rows_at_once<T>(call.classes) + kFewRows - 1;
    return !together ? 1 : (call.rows < most ? call.rows : most);
  }
  // How many of the rows [first, end) are worked on together.
  std::int64_t group(const KdCall<T>& call, std::int64_t first, std::int64_t end) const {
    if (!together) return 1;
    const std::int64_t size = pack_rows_at_once<T>(call.classes);
    const std::int64_t count = size - (first + rows_missing(call)) % size;
    return end - first < count + kFewRows ? end - first : count;
  }
  void place(const KdCall<T>& call, T* memory) {
    const std::int64_t block = rows(call) * block_stride<T>(call.classes);
    target = memory, s = target + call.classes;
    t = s + (student || grad ? block : 0), h = t + (teacher ? block : 0);
  }

 private:
  template <class V>
  bool needs_one(const V& v) {
    if (v.data == nullptr || in_place<T>(v)) return false;
    together |= v.class_stride != 1;
    return true;
  }
};

template <class T>
void kd_row_blocks(const KdCall<T>& call, std::int64_t begin, std::int64_t end, const ScratchOf<T>& scratch) {
  const std::int64_t classes = call.classes;
  const std::int64_t stride = block_stride<T>(classes);
  RowBlocks<T> blocks(call);
  blocks.place(call, scratch.plain + RowScratch<T>::size(classes));
  Temperature<T> temperature(call.tau);
  Temperature<double> exact(call.tau);
  const Plans<T> plans(call);
  const RowScratch<T> row_scratch(scratch.plain, classes);
  const bool with_grad = call.grad.data != nullptr, with_hess = call.hess.data != nullptr;
  const auto read = [&](bool packed, const T* block, const AnyView& from, std::int64_t first,
                        std::int64_t i) {
    return packed ? block + i * stride : at(typed<T>(from), first + i);
  };
  const auto written = [&](bool packed, T* block, const Output& to, std::int64_t first, std::int64_t i) {
    return to.data == nullptr ? nullptr : (packed ? block + i * stride : at(typed<T>(to), first + i));
  };
  const std::int64_t ahead =
      block_count(classes) > 1 ? kBlock : (blocks.student ? stride : call.student.row_stride);

  for (std::int64_t first = begin, count; first < end; first += count) {
    count = blocks.group(call, first, end);
    if (blocks.student) read_rows(call.student, first, count, classes, blocks.s);
    if (blocks.teacher) read_rows(call.teacher, first, count, classes, blocks.t);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t r = first + i;
      RowPlan plan = plans[r];
      const T* const s = read(blocks.student, blocks.s, call.student, first, i);
      T* const grad = written(blocks.grad, blocks.s, call.grad, first, i);
      T* const hess = written(blocks.hess, blocks.h, call.hess, first, i);
      if (plan.hard && plans.blended()) blend_row(call, plans, r, s, blocks.target, plan);
      RowParts parts;
      if (plan.hard || plan.soft) {
        const double tau = tau_of(call, r);
        if (call.taus != nullptr) temperature = Temperature<T>(tau), exact = Temperature<double>(tau);
        const T* const t = plan.soft ? read(blocks.teacher, blocks.t, call.teacher, first, i) : nullptr;
        const RowInput<T> row{s, t, plan.label, ahead};
        T* plain_hess = hess;
        if (with_hess && !probabilities_are_whole(row, classes, plan, temperature.tau)) {
          careful_row<T>(call, r, plan, tau, scratch.careful, nullptr, hess, 1);
          plain_hess = nullptr;
        }
        const bool plain =
            temperature.ordinary && with_parts(plan.hard, plan.soft, [&](auto hard, auto soft) {
              return kd_row<hard.value, soft.value>(call, row, grad, plain_hess, temperature, exact, plan,
                                                    row_scratch, parts);
            });
        if (!plain) parts = careful_row(call, r, plan, tau, scratch.careful, grad, hess, 1);
        if (with_grad && plan.blended)
          blend_gradient(grad, blocks.target, classes, static_cast<T>(plan.hard_weight * call.grad_scale));
        parts = with_target(plan, parts);
      } else {
        for (std::int64_t c = 0; with_grad && c < classes; ++c) grad[c] = 0;
        for (std::int64_t c = 0; with_hess && c < classes; ++c) hess[c] = 0;
      }
      call.sums[r] = {mixed(plan, parts), used(plan.weight, parts.hard), used(plan.weight, parts.soft),
                      plan.hard ? plan.weight : 0};
      record(call, r, plan, parts);
    }
    if (blocks.grad) write_rows(blocks.s, first, count, classes, call.grad);
    if (blocks.hess) write_rows(blocks.h, first, count, classes, call.hess);
  }
}

// ---- Either

template <class T>
bool in_lanes(std::int64_t classes) {
  return classes <= kMostLaneClasses;
}

template <class T>
std::int64_t plain_scratch(const KdCall<T>& call) {
  if (!in_lanes<T>(call.classes)) return RowScratch<T>::size(call.classes) + RowBlocks<T>(call).size(call);
  return lane_scratch<T>(call.classes) + Slab<T>::size(call);
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
  if (!in_lanes<T>(call.classes))
    kd_row_blocks(call, begin, end, scratch);
  else if (Slab<T>::is_wanted(call))
    kd_lane_slabs(call, begin, end, scratch);
  else
    kd_lane_blocks(call, begin, end, scratch);
}
template <class T>
std::int64_t rows_per_sum(std::int64_t classes) {
  return in_lanes<T>(classes) ? Lanes<T>::kCount : 1;
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
