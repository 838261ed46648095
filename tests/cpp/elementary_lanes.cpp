// The kernels' elementary functions, compiled once for each instruction set with the kernels' own options.
#include "../../cpp/src/kernels/simd/elementary.hpp"
#include "elementary_table.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

template <class T, class F>
KDLOSS_INLINE void map(const T* x, T* y, std::int64_t count, F&& f) {
  for (std::int64_t i = 0; i < count; i += Lanes<T>::kCount) store(y + i, f(load(x + i)));
}
template <class T>
void exp_each(const T* x, T* y, std::int64_t count, T k) {
  map(x, y, count, [k](Lanes<T> v) { return exp_normal(v, Lanes<T>(k)); });
}
template <class T>
void expm1_each(const T* x, T* y, std::int64_t count, T k) {
  map(x, y, count, [k](Lanes<T> v) { return grow(Lanes<T>(1), Exponent<T>(v, Lanes<T>(k))).growth; });
}
template <class T>
void exp_to_zero_each(const T* x, T* y, std::int64_t count, T k) {
  const Lanes<T> zero(zero_at<T>(static_cast<double>(k), 0));
  map(x, y, count, [k, zero](Lanes<T> v) { return exp_to_zero(v, Lanes<T>(k), zero); });
}
template <class T>
void exp_any_each(const T* x, T* y, std::int64_t count, T k) {
  const Lanes<T> zero(zero_at<T>(static_cast<double>(k), Format<T>::kHeadroomExponent));
  map(x, y, count, [k, zero](Lanes<T> v) { return exp_any(v, Lanes<T>(k), zero); });
}
template <class T>
void expm1_remainder_each(const T* x, T* y, std::int64_t count, T) {
  map(x, y, count, [](Lanes<T> v) { return expm1_remainder_over_square(v); });
}
template <class T>
void log_each(const T* x, T* y, std::int64_t count, T) {
  map(x, y, count, [](Lanes<T> v) { return log_of_sum(v, Lanes<T>(0)); });
}
template <class T>
void log1p_each(const T* x, T* y, std::int64_t count, T) {
  map(x, y, count, [](Lanes<T> v) { return log1p(v); });
}

template <class T>
constexpr ElementaryFunctions<T> functions() {
  return {exp_each<T>, expm1_each<T>, exp_to_zero_each<T>, exp_any_each<T>, expm1_remainder_each<T>,
          log_each<T>, log1p_each<T>};
}
constexpr Elementary kElementary = {functions<float>(), functions<double>()};

}  // namespace

extern const Elementary& elementary;
const Elementary& elementary = kElementary;

}  // namespace kdloss::KDLOSS_ISA
