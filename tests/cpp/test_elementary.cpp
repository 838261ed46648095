// The kernels' exp, expm1, log and log1p against long double, in units of the last place.
//
// docs/accuracy.csv says over which range, and how far off they may be: the documented numbers are the tested
// ones.
#include <fstream>
#include <stdexcept>

#include "batch.hpp"
#include "check.hpp"
#include "elementary_table.hpp"
#include "kdloss/kdloss.hpp"

namespace kdloss {
#if defined(__x86_64__)
namespace baseline {
extern const Elementary& elementary;
}
namespace x86_64_v3 {
extern const Elementary& elementary;
}
namespace x86_64_v4 {
extern const Elementary& elementary;
}
#elif defined(__aarch64__)
namespace neon {
extern const Elementary& elementary;
}
#else
namespace baseline {
extern const Elementary& elementary;
}
#endif
}  // namespace kdloss

namespace {

template <class T>
const kdloss::ElementaryFunctions<T>& functions() {
  const std::string isa = kdloss::active_isa();
#if defined(__x86_64__)
  const kdloss::Elementary& all = isa == "x86-64-v4"   ? kdloss::x86_64_v4::elementary
                                  : isa == "x86-64-v3" ? kdloss::x86_64_v3::elementary
                                                       : kdloss::baseline::elementary;
#elif defined(__aarch64__)
  const kdloss::Elementary& all = kdloss::neon::elementary;
#else
  const kdloss::Elementary& all = kdloss::baseline::elementary;
#endif
  if constexpr (sizeof(T) == sizeof(float))
    return all.for_float;
  else
    return all.for_double;
}

// ---- The table

struct Accuracy {
  double from, to;           // of x k for the exponentials, of x elsewhere
  double largest, promised;  // errors in ULP: measured, and the bound
};

template <class T>
Accuracy documented(const std::string& function) {
  const std::string key = function + "," + (sizeof(T) == sizeof(float) ? "float" : "double") + "," +
                          (kdloss::active_isa() == "baseline" ? "without" : "with") + ",";
  std::ifstream table(KDLOSS_ACCURACY_TABLE);
  for (std::string line; std::getline(table, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    Accuracy a{};
    char comma;
    std::istringstream numbers(line.substr(key.size()));
    if (numbers >> a.from >> comma >> a.to >> comma >> a.largest >> comma >> a.promised) return a;
  }
  throw std::runtime_error("docs/accuracy.csv has no line " + key);
}

// ---- The true values

constexpr Real kLn2 = 0.693147180559945309417232121458176568L;

// 2^(x k), where the product is kept to twice the digits: a large exponent would magnify its rounding.
template <class R>
R true_exp(R x, R k) {
  const R product = x * k, rest = std::fma(x, k, -product);
  return std::exp2(product) * (1 + rest * static_cast<R>(kLn2));
}
template <class R>
R true_expm1(R x, R k) {
  return std::fabs(x * k) < 1 ? std::expm1(x * k * static_cast<R>(kLn2)) : true_exp(x, k) - 1;
}
template <class R>
R true_expm1_remainder(R x, R) {  // (exp(x) - 1 - x) / x^2
  R term = R(0.5), sum = 0;
  for (int n = 3; n < 28; ++n) sum += term, term *= x / static_cast<R>(n);
  return sum;
}
template <class R>
R true_log(R x, R) {
  return std::log(x);
}
template <class R>
R true_log1p(R x, R) {
  return std::log1p(x);
}

// ---- The measurement

// The distance of two neighbours of type T at x.
template <class T, class R>
R ulp(R x) {
  using Limits = std::numeric_limits<T>;
  const int exponent = x == 0 ? Limits::min_exponent : std::max(std::ilogb(x) + 1, Limits::min_exponent);
  return std::ldexp(R(1), exponent - Limits::digits);
}

// The error of f at all points that next() returns.
template <class T, class R, class Next>
void measure(check::Worst& worst, typename kdloss::ElementaryFunctions<T>::Function f, R (*truth)(R, R), T k,
             Next&& next) {
  constexpr std::int64_t kCount = 256 * kdloss::kElementaryGroup;
  std::vector<T> x(kCount), y(kCount);
  for (bool more = true; more;) {
    for (std::size_t i = 0; i < x.size(); ++i)
      if (!next(x[i])) {
        more = false;
        for (; i < x.size(); ++i) x[i] = i == 0 ? T(1) / 2 : x[i - 1];
      }
    f(x.data(), y.data(), kCount, k);
    double most = 0;
    T where = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const R expected = truth(x[i], k);
      const double error = static_cast<double>(std::fabs(y[i] - expected) / ulp<T>(expected));
      if (!(error <= most)) most = error, where = x[i];
    }
    worst.add(most, "x = ", where, ", k = ", k);
  }
}

// The numbers of type T in order, as integers: -0 and 0 are both 0.
template <class T>
std::int64_t ordered(T x) {
  using Int = std::conditional_t<sizeof(T) == sizeof(float), std::int32_t, std::int64_t>;
  Int bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits >= 0 ? bits : std::numeric_limits<Int>::min() - bits;
}
template <class T>
T from_ordered(std::uint64_t n) {
  using Int = std::conditional_t<sizeof(T) == sizeof(float), std::int32_t, std::int64_t>;
  const Int signed_n = static_cast<Int>(n),
            bits = signed_n >= 0 ? signed_n : std::numeric_limits<Int>::min() - signed_n;
  T x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Points in [from, to]: spread evenly over the interval, over its part near zero, and over the numbers of the
// type (so that every binade has its share); and the ends.
template <class T, class R>
void sweep(const std::string& name, typename kdloss::ElementaryFunctions<T>::Function f, R (*truth)(R, R),
           const std::vector<double>& factors) {
  constexpr int kPoints = 400000;
  const Accuracy a = documented<T>(name);
  CHECK_AT(a.largest <= a.promised, name, ": docs/accuracy.csv measured more than it promises");
  check::Worst worst(name + " in ULP, documented", a.largest);
  for (double factor : factors) {
    const T k = static_cast<T>(factor);
    const T from = static_cast<T>(a.from / factor), to = static_cast<T>(a.to / factor);
    const T near = static_cast<T>(4 / factor);
    Random random(1);
    int i = 0;
    measure<T, R>(worst, f, truth, k, [&](T& x) {
      x = i == 0 ? from : i == 1 ? to : static_cast<T>(random.uniform(from, to));
      return i++ < kPoints;
    });
    i = 0;
    measure<T, R>(worst, f, truth, k, [&](T& x) {
      x = static_cast<T>(random.uniform(std::max(from, -near), std::min(to, near)));
      return i++ < kPoints;
    });
    const auto first = static_cast<std::uint64_t>(ordered(from));
    const std::uint64_t span = static_cast<std::uint64_t>(ordered(to)) - first;
    i = 0;
    measure<T, R>(worst, f, truth, k, [&](T& x) {
      x = from_ordered<T>(first + random.bits() % (span + 1));
      return i++ < kPoints;
    });
  }
  CHECK_HOLDS(worst);
}

// 1 / tau for ordinary and extreme temperatures, times log2(e).
const std::vector<double> kFactors{1,
                                   1.4426950408889634,
                                   1.4426950408889634 / 4,
                                   1.4426950408889634 / 3,
                                   1.4426950408889634e3,
                                   1.4426950408889634e-6};

}  // namespace

KD_CASE_EACH_TYPE(elementary.exp) { sweep<T, Real>("exp", functions<T>().exp, true_exp<Real>, kFactors); }
KD_CASE_EACH_TYPE(elementary.expm1) {
  sweep<T, Real>("expm1", functions<T>().expm1, true_expm1<Real>, kFactors);
}
KD_CASE_EACH_TYPE(elementary.exp_to_zero) {
  sweep<T, Real>("exp_to_zero", functions<T>().exp_to_zero, true_exp<Real>, kFactors);
}
KD_CASE_EACH_TYPE(elementary.exp_any) {
  sweep<T, Real>("exp_any", functions<T>().exp_any, true_exp<Real>, kFactors);
}
KD_CASE_EACH_TYPE(elementary.expm1_remainder) {
  sweep<T, Real>("expm1_remainder", functions<T>().expm1_remainder, true_expm1_remainder<Real>, {1});
}
KD_CASE_EACH_TYPE(elementary.log) { sweep<T, Real>("log", functions<T>().log, true_log<Real>, {1}); }
KD_CASE_EACH_TYPE(elementary.log1p) { sweep<T, Real>("log1p", functions<T>().log1p, true_log1p<Real>, {1}); }

// At a sum of exactly 1, and at special values.
KD_CASE_EACH_TYPE(elementary.exact_values) {
  constexpr T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const auto at = [](typename kdloss::ElementaryFunctions<T>::Function f, T x) {
    const std::vector<T> in(kdloss::kElementaryGroup, x);
    std::vector<T> out(in);
    f(in.data(), out.data(), kdloss::kElementaryGroup, T(1));
    for (T y : out) CHECK_AT(check::same_bits(y, out[0]) || y != y, "a lane of its own");
    return out[0];
  };
  const auto& f = functions<T>();
  CHECK(at(f.exp, 0) == 1 && at(f.expm1, 0) == 0 && at(f.exp_to_zero, 0) == 1 && at(f.exp_any, 0) == 1);
  CHECK(at(f.log, 1) == 0 && at(f.log1p, 0) == 0);
  for (const T far : {-inf, std::numeric_limits<T>::lowest(), T(-2000)})
    CHECK(check::same_bits(at(f.exp_to_zero, far), T(0)) && check::same_bits(at(f.exp_any, far), T(0)));
  CHECK(std::isnan(at(f.exp, nan)) && std::isnan(at(f.expm1, nan)));
  CHECK(std::isnan(at(f.exp_to_zero, nan)) && std::isnan(at(f.exp_any, nan)));
  CHECK(std::isnan(at(f.log, nan)) && std::isnan(at(f.log, inf)));
  CHECK(std::isnan(at(f.log1p, nan)) && std::isnan(at(f.log1p, inf)));
}

#if KDLOSS_SLOW_TESTS
// Every float of the range, against double.
namespace {
void sweep_all(const std::string& name, kdloss::ElementaryFunctions<float>::Function f,
               double (*truth)(double, double)) {
  const Accuracy a = documented<float>(name);
  check::Worst worst(name + " of every float in ULP, documented", a.largest);
  std::int64_t n = ordered(static_cast<float>(a.from));
  const std::int64_t last = ordered(static_cast<float>(a.to));
  measure<float, double>(worst, f, truth, 1, [&](float& x) {
    if (n > last) return false;
    x = from_ordered<float>(static_cast<std::uint64_t>(n++));
    return true;
  });
  CHECK_HOLDS(worst);
}
}  // namespace

KD_CASE(slow.every_float.exp) { sweep_all("exp", functions<float>().exp, true_exp<double>); }
KD_CASE(slow.every_float.expm1) { sweep_all("expm1", functions<float>().expm1, true_expm1<double>); }
KD_CASE(slow.every_float.exp_to_zero) {
  sweep_all("exp_to_zero", functions<float>().exp_to_zero, true_exp<double>);
}
KD_CASE(slow.every_float.exp_any) { sweep_all("exp_any", functions<float>().exp_any, true_exp<double>); }
KD_CASE(slow.every_float.expm1_remainder) {
  sweep_all("expm1_remainder", functions<float>().expm1_remainder, true_expm1_remainder<double>);
}
KD_CASE(slow.every_float.log) { sweep_all("log", functions<float>().log, true_log<double>); }
KD_CASE(slow.every_float.log1p) { sweep_all("log1p", functions<float>().log1p, true_log1p<double>); }
#endif
