// Sums of many doubles, whose order depends on their number alone.
#pragma once

#include <cstdint>

namespace kdloss {

// Eight sums, each of every eighth number: the compiler keeps them in vectors.
struct EightSums {
  double sums[8] = {};
  double total() const {
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
  }
};
// f(0) + ... + f(count - 1)
template <class F>
double sum_of(std::int64_t count, F&& f) {
  EightSums s;
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; ++j) s.sums[j] += f(i + j);
  for (; i < count; ++i) s.sums[i % 8] += f(i);
  return s.total();
}

}  // namespace kdloss
