// Whether rows of soft labels are probabilities, or zeros.
//
// Seen at full speed, a row a lane or one row at a time; only what is in doubt is looked at number by number.
#pragma once

#include "loss/rows.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T>
bool is_probabilities(const KdCall<T>& call, std::int64_t row) {
  const AnyView& v = call.labels.probabilities;
  return with_scalar(v.type, [&](auto element) {
    const auto m = typed<decltype(element)>(v);
    double total = 0;
    bool negative = false;
    for (std::int64_t c = 0; c < call.classes; ++c) {
      const double y = static_cast<double>(widened(*at(m, row, c)));
      total += y, negative |= y < 0;
    }
    const double excess = total - 1;
    const bool unlabelled = total == 0 && call.teacher.data != nullptr;
    return !negative && (unlabelled || (excess <= kProbabilityTolerance && -excess <= kProbabilityTolerance));
  });
}

// The same where the smallest of a row and its sum in T say so with room for their rounding.
template <class T>
KDLOSS_INLINE bool surely_probabilities(T least, double total) {
  constexpr double kRoom = 0.9 * kProbabilityTolerance;
  return least >= 0 && total - 1 <= kRoom && 1 - total <= kRoom;
}

// The first of rows [begin, end) that counts and is neither, or -1.
template <class T>
std::int64_t bad_probabilities(const KdCall<T>& call, std::int64_t begin, std::int64_t end, T* scratch) {
  using L = Lanes<T>;
  constexpr std::int64_t n = L::kCount;
  const std::int64_t classes = call.classes;
  std::int64_t bad = -1;
  const auto look = [&](std::int64_t row, T least, double total) {
    const bool counts = call.sample_weight == nullptr || call.sample_weight[row] != 0;
    if (bad < 0 && counts && !surely_probabilities(least, total) && !is_probabilities(call, row)) bad = row;
  };
  // The sum of a row, or of the row in each lane, and its smallest number (0 where all are larger).
  const auto scan = [](const auto& layout, const T* y, L& least_of_row) KDLOSS_INLINE_LAMBDA {
    L least(T(0));
    const auto sums = layout.template sums<1>([&](std::int64_t i) KDLOSS_INLINE_LAMBDA {
      const L v = load(y + i);
      least = min(v, least);
      return Some<L, 1>{v};
    });
    least_of_row = least;
    return sums.x[0];
  };
  const auto tile = [&](const Chunk<T>& chunk, std::int64_t i) {
    const int count = chunk.rows_of_tile(i);
    gather(chunk.soft_labels, i, count, classes, scratch);
    L least;
    alignas(64) T least_of[n], total_of[n];
    store(total_of, scan(InLanes<T>{classes}, scratch, least)), store(least_of, least);
    for (int j = 0; j < count; ++j) look(chunk.first + i + j, least_of[j], static_cast<double>(total_of[j]));
  };
  const auto row = [&](const Chunk<T>& chunk, std::int64_t i) {
    L least;
    const auto total = scan(InRow<T>{classes}, at(chunk.soft_labels, i), least);
    look(chunk.first + i, smallest(least), first(total));
  };
  Arrays arrays;
  arrays.soft_labels = call.soft_labels, arrays.rows = call.rows, arrays.classes = classes;
  const bool lanes = in_lanes(classes);
  Staging<T>(arrays, lanes).for_chunks(begin, end, scratch + copies_at(call), [&](const Chunk<T>& chunk) {
    for (std::int64_t i = 0; bad < 0 && i < chunk.count; i += lanes ? n : 1)
      lanes ? tile(chunk, i) : row(chunk, i);
  });
  return bad;
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
