// The elementary functions of one instruction set, as functions on arrays.
#pragma once

#include <cstdint>

namespace kdloss {

constexpr std::int64_t kElementaryGroup = 16;  // counts are multiples of it

template <class T>
struct ElementaryFunctions {
  // y[i] = f(x[i]) for i < count; k is a factor of x for the exponentials, 2^(x k), and unused elsewhere.
  using Function = void (*)(const T* x, T* y, std::int64_t count, T k);
  Function exp, expm1, exp_to_zero, exp_any, expm1_remainder, log, log1p;
};

struct Elementary {
  ElementaryFunctions<float> for_float;
  ElementaryFunctions<double> for_double;
};

}  // namespace kdloss
