// Rows of two to four different logits, each many times, as quantized models and flat tails have them: their
// terms are rounded all alike, so that errors add up instead of cancelling. Found by hill climbing on the
// error.
#include <algorithm>

#include "compare.hpp"

namespace {

struct Repeated {
  double s, t;
  std::int64_t times;
};
struct Row {
  double tau;
  std::int64_t label;
  std::vector<Repeated> logits;
};

const Row kRows[] = {
    {1e6, 0, {{7409055.5, -4643382.5, 259}, {6227416, -4184918.25, 11}, {-138528.421875, -12284239, 1777}}},
    {9.571195917207465,
     0,
     {{0.8992946743965149, -3.4928460121154785, 261},
      {-87.42575073242188, -88.03050231933594, 4733},
      {15.523366928100586, 16.714174270629883, 6}}},
    {1.9995718470508965,
     0,
     {{1.0909199714660645, 0.2623600959777832, 1},
      {3.316239595413208, 0.20509497821331024, 2},
      {0.8588481545448303, -0.34439733624458313, 12},
      {-18.252452850341797, -15.195103645324707, 209}}},
    {0.4999988817300573,
     0,
     {{-0.609034538269043, 0.8592674136161804, 8},
      {-0.07279905676841736, 0.8160072565078735, 1},
      {-2.590797185897827, -2.8189303874969482, 22},
      {-0.9143033027648926, 0.2055690586566925, 1}}},
    {2.005472295415884,
     0,
     {{0.16364735121624538, 7.760306824108392, 1},
      {-3.586860609712581, -4.938577931059146, 1522},
      {0.1739045979333541, 1.2661732114325586, 524}}},
    {9.986878278778065,
     0,
     {{30.680904388427734, 0.004478146322071552, 517},
      {11.983821868896484, -30.755056381225586, 1529},
      {30.754926681518555, 34.872581481933594, 1}}},
    {1, 0, {{0, -4.24742317199707, 2009}, {-0.5140055418014526, 0, 1}}},
    {1e6, 0, {{-4815922, -8147810, 3}, {-87153.0234375, -3410746.5, 217}, {-60583.46484375, -3384176.75, 4}}},
    {3.591557492071337,
     0,
     {{-23.03667640686035, 111.93363952636719, 1}, {-50.81601333618164, -173.97714233398438, 1}}},
    {3.6327384540693846,
     0,
     {{-74.69607543945312, -184.70204162597656, 5},
      {-88.66792297363281, 94.36051177978516, 4},
      {-64.49742889404297, 104.69586181640625, 1}}},
    {5,
     0,
     {{56.408267974853516, 12.59827995300293, 1},
      {13.401396751403809, 6.116705417633057, 1032},
      {22.47231674194336, 11.986459732055664, 1014}}},
    {4, 5, {{-7.976716995239258, -1, 213}, {-0.052519362419843674, 2, 10}, {8.476786613464355, 0.5, 1}}},
};

template <class T>
Batch<T> batch_of(const Row& row) {
  std::int64_t classes = 0;
  for (const Repeated& x : row.logits) classes += x.times;
  Batch<T> batch(3, classes, row.tau);
  std::int64_t c = 0;
  for (const Repeated& x : row.logits)
    for (std::int64_t i = 0; i < x.times; ++i, ++c)
      batch.s(0, c) = static_cast<T>(x.s), batch.t(0, c) = static_cast<T>(x.t);
  std::vector<std::int64_t> order(static_cast<std::size_t>(classes));
  for (std::int64_t i = 0; i < classes; ++i) order[static_cast<std::size_t>(i)] = i;
  Random random(static_cast<std::uint64_t>(classes));
  for (std::int64_t i : {1, 2}) {  // from the end, and shuffled
    if (i == 1) std::reverse(order.begin(), order.end());
    for (std::int64_t j = classes - 1; i == 2 && j > 0; --j)
      std::swap(order[static_cast<std::size_t>(j)], order[static_cast<std::size_t>(random.below(j + 1))]);
    for (std::int64_t j = 0; j < classes; ++j) {
      const std::int64_t from = order[static_cast<std::size_t>(j)];
      batch.s(i, j) = batch.s(0, from), batch.t(i, j) = batch.t(0, from);
      if (from == row.label) batch.labels[static_cast<std::size_t>(i)] = j;
    }
  }
  batch.labels[0] = row.label;
  return batch;
}

}  // namespace

KD_CASE_EACH_TYPE(few_different_logits.found) {
  Comparison<T> comparison;
  for (const Row& row : kRows) comparison.add(batch_of<T>(row));
}

// The same at random: a few values, how often each, and a temperature.
KD_CASE_EACH_TYPE(few_different_logits.any) {
  Comparison<T> comparison;
  Random random(23);
  for (std::int64_t classes : {5, 16, 32, 100, 256, 257, 1000, 2047, 5000})
    for (int i = 0; i < 40; ++i) {
      Row row{std::exp(random.uniform(-1, 3)), random.below(classes), {}};
      const double spread = std::exp(random.uniform(-1, 3));
      std::int64_t left = classes;
      for (int j = 0; j < 4 && left > 0; ++j) {
        const std::int64_t times =
            j == 3 ? left : 1 + random.below(j == 0 ? left : std::min<std::int64_t>(left, 20));
        const double t = spread * random.normal();
        row.logits.push_back({t + random.uniform(0, 1) * spread * random.normal(), t, times});
        left -= times;
      }
      comparison.add(batch_of<T>(row));
    }
}
