// KL(q || p) of rows of probabilities.
#include "compare.hpp"

namespace {

template <class T>
T kl(const std::vector<T>& q, const std::vector<T>& p) {
  const auto classes = static_cast<std::int64_t>(q.size());
  T row = -1;
  kdloss::kl_divergence<T>({q.data(), 1, classes}, {p.data(), 1, classes}, kdloss::Reduction::kMean, &row);
  return row;
}

// The sum of q log(q / p) - q + p; where p is close to q, as the series of q (x - log(1 + x)) in x = p / q
// - 1.
template <class T>
Real truth(const std::vector<T>& q, const std::vector<T>& p) {
  Real sum = 0;
  for (std::size_t c = 0; c < q.size(); ++c) {
    const Real a = q[c], b = p[c], x = (b - a) / a;
    if (a == 0) {
      sum += b;
    } else if (std::fabs(x) > Real(0.01)) {
      sum += a * std::log(a / b) - a + b;
    } else {
      Real series = 0;  // 1/2 - x/3 + x^2/4 ...
      for (int n = 12; n >= 2; --n) series = 1 / Real(n) - x * series;
      sum += a * x * x * series;
    }
  }
  return sum;
}

template <class T>
std::vector<T> probabilities(Random& random, std::size_t classes, double spread) {
  std::vector<T> p(classes);
  double sum = 0;
  for (T& x : p) sum += static_cast<double>(x = static_cast<T>(std::exp(spread * random.normal())));
  for (T& x : p) x = static_cast<T>(static_cast<double>(x) / sum);
  return p;
}

}  // namespace

KD_CASE_EACH_TYPE(kl_divergence.against_long_double) {
  check::Worst worst("KL", tolerance::kPromise<T>);
  Random random(1);
  for (std::size_t classes : {1u, 2u, 3u, 10u, 145u, 2000u})
    for (double spread : {0.0, 0.1, 1.0, 10.0})
      for (double closeness : {1.0, 1e-2, 1e-4, 1e-6, 0.0}) {
        const std::vector<T> q = probabilities<T>(random, classes, spread);
        std::vector<T> p = q;
        for (T& x : p)
          x = static_cast<T>(static_cast<double>(x) * (1 + closeness * random.uniform(-1e-3, 1e-3)));
        if (closeness == 1) p = probabilities<T>(random, classes, spread);
        const Real expected = truth(q, p);
        const T found = kl(q, p);
        CHECK_AT(found >= 0 && (found > 0 || expected == 0), classes, " classes");
        worst.add(relative_error<T>(found, expected, expected), classes, " classes, spread ", spread,
                  ", closeness ", closeness);
      }
  CHECK_HOLDS(worst);
}

// The teacher comes first: with q = (1, 0) only log p of the first class counts.
KD_CASE_EACH_TYPE(kl_divergence.direction) {
  check::Worst worst("KL", tolerance::kPromise<T>);
  worst.add(relative_error<T>(kl<T>({1, 0}, {T(0.25), T(0.75)}), std::log(Real(4)), 1));
  CHECK_HOLDS(worst);
  CHECK(kl<T>({T(0.25), T(0.75)}, {1, 0}) == std::numeric_limits<T>::infinity());
}

KD_CASE_EACH_TYPE(kl_divergence.zeros) {
  CHECK(kl<T>({1, 0}, {1, 0}) == 0);  // 0 log 0 = 0
  CHECK(kl<T>({0, 1}, {0, 1}) == 0);
  CHECK(kl<T>({T(0.5), T(0.5)}, {1, 0}) == std::numeric_limits<T>::infinity());
}

// softmax_temp underflows gradually, so that such probabilities are real input.
KD_CASE_EACH_TYPE(kl_divergence.smallest_numbers) {
  check::Worst worst("KL", tolerance::kPromise<T>);
  const T tiny = std::numeric_limits<T>::denorm_min(), normal = std::numeric_limits<T>::min();
  for (T small : {tiny, 3 * tiny, normal / 4, normal})
    for (const auto& [q, p] : {std::pair<std::vector<T>, std::vector<T>>({1, 0}, {small, 1}),
                               {{1, small}, {1, normal}},
                               {{small, 1}, {T(0.5), T(0.5)}}})
      worst.add(relative_error<T>(kl(q, p), truth(q, p), truth(q, p)), q[0], ", ", q[1], " || ", p[0], ", ",
                p[1]);
  CHECK_HOLDS(worst);
}

KD_CASE_EACH_TYPE(kl_divergence.nan_in_one_row) {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const std::vector<T> plain{T(0.25), T(0.75), T(0.5), T(0.5)}, peaked{T(0.25), T(0.75), 0, 1};
  for (std::size_t c : {2u, 3u})
    for (bool in_q : {true, false})
      for (const std::vector<T>& other : {plain, peaked}) {
        std::vector<T> broken = plain;
        broken[c] = nan;
        const std::vector<T>&q = in_q ? broken : other, &p = in_q ? other : broken;
        T rows[2] = {-1, -1};
        const double mean =
            kdloss::kl_divergence<T>({q.data(), 2, 2}, {p.data(), 2, 2}, kdloss::Reduction::kMean, rows);
        CHECK_AT(rows[0] == 0 && std::isnan(rows[1]) && std::isnan(mean), "class ", c,
                 in_q ? " of q, p[1] = " : " of p, q[1] = ", other[2], ", ", other[3]);
      }
}

KD_CASE_EACH_TYPE(kl_divergence.reductions_and_strides) {
  Random random(2);
  std::vector<T> q, p;
  for (int i = 0; i < 7; ++i) {
    for (T x : probabilities<T>(random, 5, 1)) q.push_back(x);
    for (T x : probabilities<T>(random, 5, 1)) p.push_back(x);
  }
  std::vector<T> rows(7), of_columns(7), p_columns(35);
  const double mean =
      kdloss::kl_divergence<T>({q.data(), 7, 5}, {p.data(), 7, 5}, kdloss::Reduction::kMean, rows.data());
  const double sum = kdloss::kl_divergence<T>({q.data(), 7, 5}, {p.data(), 7, 5}, kdloss::Reduction::kSum);
  CHECK((kdloss::kl_divergence<T>({q.data(), 7, 5}, {p.data(), 7, 5}, kdloss::Reduction::kNone) == 0));
  CHECK(mean == sum / 7);
  for (std::size_t i = 0; i < 7; ++i)
    for (std::size_t c = 0; c < 5; ++c)
      p_columns[c * 7 + 6 - i] = p[i * 5 + c];  // by columns, last row first
  kdloss::kl_divergence<T>({q.data(), 7, 5}, {p_columns.data() + 6, 7, 5, -1, 7}, kdloss::Reduction::kMean,
                           of_columns.data());
  CHECK(check::same_bits(rows, of_columns));
}
