// Sums of many doubles, whose order depends on their number alone.
#pragma once

#include <cstdint>

namespace kdloss {

// Of every eighth, side by side, which the compiler keeps in vectors.
struct EightSums {
  double sums[8] = {};
  double total() const {
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
  }
};
inline double sum_of(const double* x, std::int64_t count) {
  EightSums s;
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; ++j) s.sums[j] += x[i + j];
  for (; i < count; ++i) s.sums[i % 8] += x[i];
  return s.total();
}

}  // namespace kdloss
