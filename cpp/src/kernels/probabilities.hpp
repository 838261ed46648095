// Whether rows of soft labels are probabilities, or zeros.
//
// Seen at full speed, a row a lane or one row at a time; only what is in doubt is looked at number by number.
#pragma once

#include "kd_rows.hpp"

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
  const auto counts = [&](std::int64_t row) {
    return call.sample_weight == nullptr || call.sample_weight[row] != 0;
  };
  const AnyView& v = call.labels.probabilities;
  if (in_lanes<T>(classes)) {
    T* const block = scratch + classes * n;
    for (std::int64_t first = begin; first < end; first += n) {
      const int count = static_cast<int>(end - first < n ? end - first : n);
      fill_tile(v, first, count, classes, scratch, block);
      L least_lanes(T(0)), sums(T(0));
      for (std::int64_t c = 0; c < classes; ++c) {
        const L y = load(scratch + c * n);
        sums = sums + y, least_lanes = min(y, least_lanes);
      }
      alignas(64) T least[n], total[n];
      store(least, least_lanes), store(total, sums);
      for (int i = 0; i < count; ++i)
        if (!surely_probabilities(least[i], static_cast<double>(total[i])) && counts(first + i) &&
            !is_probabilities(call, first + i))
          return first + i;
    }
    return -1;
  }
  for (std::int64_t row = begin; row < end; ++row) {
    const T* p = scratch;
    if (in_place<T>(v))
      p = at(typed<T>(v), row);
    else
      read_rows(v, row, 1, classes, scratch);
    L least(T(0));
    const auto total = sums_over<T>(classes, [&](std::int64_t c) KDLOSS_INLINE_LAMBDA {
      const L y = load(p + c);
      least = min(y, least);
      return Two<L>{y, L(0)};
    });
    if (!surely_probabilities(smallest(least), total.one) && counts(row) && !is_probabilities(call, row))
      return row;
  }
  return -1;
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
