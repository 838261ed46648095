// softmax, log-softmax and log-sum-exp against long double, and their values at infinities.
#include "compare.hpp"

namespace {

template <class T>
constexpr T kInfinityOf = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

template <class T>
struct Outputs {
  std::vector<T> softmax, log_softmax, log_sum_exp;
};
template <class T>
Outputs<T> outputs(kdloss::View<const T> x, double tau, int threads = 0) {
  const auto size = static_cast<std::size_t>(x.rows * x.classes);
  Outputs<T> r{std::vector<T>(size), std::vector<T>(size), std::vector<T>(static_cast<std::size_t>(x.rows))};
  kdloss::softmax_temp<T>(x, tau, {r.softmax.data(), x.rows, x.classes}, threads);
  kdloss::log_softmax_temp<T>(x, tau, {r.log_softmax.data(), x.rows, x.classes}, threads);
  kdloss::log_sum_exp<T>(x, tau, r.log_sum_exp.data(), threads);
  return r;
}
template <class T>
Outputs<T> outputs(const std::vector<T>& row, double tau) {
  return outputs<T>({row.data(), 1, static_cast<std::int64_t>(row.size())}, tau);
}

}  // namespace

KD_CASE_EACH_TYPE(softmax.against_long_double) {
  constexpr double kPromise = tolerance::kPromise<T>;
  check::Worst probabilities("softmax", kPromise), logs("log_softmax", kPromise),
      sums("log_sum_exp", kPromise);
  std::vector<std::int64_t> sizes{1020, 1024, 1030, 2047, 2048, 2049, 3071};
  for (std::int64_t classes = 1; classes <= 40; ++classes) sizes.push_back(classes);
  for (std::int64_t classes = 127; classes <= 170; ++classes) sizes.push_back(classes);
  for (std::int64_t classes : sizes)
    for (double tau : {1.0, 4.0, 0.3}) {
      const Batch<T> batch = random_batch<T>(33, classes, tau);
      const Outputs<T> found = outputs(batch.student_view(), tau);
      for (std::int64_t i = 0; i < batch.rows; ++i) {
        const std::vector<Real> x = batch.row(batch.student, i);
        const auto largest = std::max_element(x.begin(), x.end());
        const Real m = *largest;
        Real others = 0;
        for (auto v = x.begin(); v != x.end(); ++v)
          if (v != largest) others += std::exp((*v - m) / tau);
        const Real log_z = std::log1p(others);
        // The largest logit and log Z may cancel each other, which no rounding of the logits would survive.
        sums.add(relative_error<T>(found.log_sum_exp[static_cast<std::size_t>(i)], m / tau + log_z,
                                   std::fabs(m / tau) + log_z),
                 classes, " classes tau ", tau, " row ", i);
        for (std::int64_t c = 0; c < classes; ++c) {
          const auto at = static_cast<std::size_t>(i * classes + c);
          const Real log_p = (x[static_cast<std::size_t>(c)] - m) / tau - log_z, p = std::exp(log_p);
          probabilities.add(relative_error<T>(found.softmax[at], p, p), classes, " classes tau ", tau,
                            " row ", i);
          logs.add(relative_error<T>(found.log_softmax[at], log_p, log_p), classes, " classes tau ", tau,
                   " row ", i);
        }
      }
    }
  for (const check::Worst* worst : {&probabilities, &logs, &sums}) CHECK_HOLDS(*worst);
}

// log(1 + exp(-x)) of two classes, down to the smallest numbers: nothing is lost beside the largest term.
KD_CASE_EACH_TYPE(softmax.log_sum_exp_close_to_its_largest_term) {
  check::Worst worst("log_sum_exp", tolerance::kPromise<T>);
  for (std::int64_t classes : {2, 200})
    for (double x = 0; x < 80; x += 0.37) {
      std::vector<T> row(static_cast<std::size_t>(classes), static_cast<T>(-x));
      row[1] = 0;
      const Real truth = std::log1p((Real(classes) - 1) * std::exp(static_cast<Real>(row[0])));
      worst.add(relative_error<T>(outputs(row, 1).log_sum_exp[0], truth, truth), classes, " classes, x ", x);
    }
  CHECK_HOLDS(worst);
}

// A temperature below the type's range divides the largest logit, 0, all the same.
KD_CASE_EACH_TYPE(softmax.log_sum_exp_at_the_least_temperatures) {
  for (std::int64_t classes : {3, 144, 145, 1100})
    for (double tau : {1e-46, 1e-310, 5e-324}) {
      const std::vector<T> row(static_cast<std::size_t>(classes), T(0));
      const double found = static_cast<double>(outputs(row, tau).log_sum_exp[0]);
      CHECK_AT(std::fabs(found / std::log(static_cast<double>(classes)) - 1) < tolerance::kPromise<T>,
               classes, " classes");
    }
}

KD_CASE_EACH_TYPE(softmax.masks) {
  for (std::int64_t classes : {2, 5, 144, 145, 1100})
    for (T mask : {-kInfinityOf<T>, std::numeric_limits<T>::lowest()}) {
      std::vector<T> row(static_cast<std::size_t>(classes), T(1));
      row[0] = mask;
      const Outputs<T> r = outputs(row, 2);
      CHECK_AT(check::same_bits(r.softmax[0], T(0)), classes, " classes");
      CHECK_AT(mask == -kInfinityOf<T> ? r.log_softmax[0] == -kInfinityOf<T> : r.log_softmax[0] < mask / 3,
               classes, " classes");
      CHECK_AT(r.softmax[1] > 0 && r.log_softmax[1] <= 0, classes, " classes");
    }
}

KD_CASE_EACH_TYPE(softmax.nan_and_infinities) {
  for (std::int64_t classes : {1, 5, 144, 145, 1100}) {
    const auto all = [](const std::vector<T>& x, auto&& holds) {
      return std::all_of(x.begin(), x.end(), holds);
    };
    const auto is_nan = [](T x) { return std::isnan(x); };
    const std::vector<T> plain(static_cast<std::size_t>(classes), T(1)),
        masked(plain.size(), -kInfinityOf<T>);
    std::vector<T> infinite = plain, with_nan = plain;
    infinite[plain.size() / 2] = kInfinityOf<T>;
    with_nan[plain.size() / 2] = kNan<T>;
    for (const std::vector<T>& row : {masked, infinite, with_nan}) {
      CHECK_AT(all(outputs(row, 2).softmax, is_nan), classes, " classes");
      CHECK_AT(all(outputs(row, 2).log_softmax, is_nan), classes, " classes");
    }
    CHECK_AT(outputs(masked, 2).log_sum_exp[0] == -kInfinityOf<T>, classes, " classes");
    CHECK_AT(outputs(infinite, 2).log_sum_exp[0] == kInfinityOf<T>, classes, " classes");
    CHECK_AT(std::isnan(outputs(with_nan, 2).log_sum_exp[0]), classes, " classes");
  }
}

// The other rows of a tile do not affect a row.
KD_CASE_EACH_TYPE(softmax.rows_are_independent) {
  for (std::int64_t classes : {5, 144, 145, 300}) {
    const Batch<T> batch = random_batch<T>(20, classes);
    const Outputs<T> whole = outputs(batch.student_view(), 2);
    for (std::int64_t i = 0; i < batch.rows; ++i) {
      const Outputs<T> alone = outputs<T>({batch.student.data() + i * classes, 1, classes}, 2);
      CHECK_AT(alone.log_sum_exp[0] == whole.log_sum_exp[static_cast<std::size_t>(i)], "row ", i);
      CHECK_AT(batch.row(whole.softmax, i) == std::vector<Real>(alone.softmax.begin(), alone.softmax.end()),
               "row ", i);
      CHECK_AT(batch.row(whole.log_softmax, i) ==
                   std::vector<Real>(alone.log_softmax.begin(), alone.log_softmax.end()),
               "row ", i);
    }
  }
}

KD_CASE_EACH_TYPE(softmax.same_bits_on_any_threads) {
  for (auto [rows, classes] : {std::pair<std::int64_t, std::int64_t>(8192, 20), {300, 500}, {2, 100000}}) {
    const Batch<T> batch = random_batch<T>(rows, classes);
    const Outputs<T> alone = outputs(batch.student_view(), 3, 1);
    for (int threads : {2, 3, 7}) {
      const Outputs<T> spread = outputs(batch.student_view(), 3, threads);
      CHECK_AT(check::same_bits(alone.softmax, spread.softmax), threads, " threads");
      CHECK_AT(check::same_bits(alone.log_softmax, spread.log_softmax), threads, " threads");
      CHECK_AT(check::same_bits(alone.log_sum_exp, spread.log_sum_exp), threads, " threads");
    }
  }
}
