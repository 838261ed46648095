// Arrays of Float16 and BFloat16, and of types that differ: the bits of the same numbers widened beforehand,
// and gradients rounded to the nearest half.
#include <cmath>
#include <type_traits>

#include "full_batch.hpp"
#include "placed.hpp"

namespace {

using kdloss::BFloat16;
using kdloss::Float16;

// The value of some bits, by the definition of the formats: sign, exponent, mantissa.
template <class Half>
double value_of(unsigned bits) {
  constexpr bool kIsBFloat = std::is_same_v<Half, BFloat16>;
  constexpr int kMantissa = kIsBFloat ? 7 : 10, kExponents = kIsBFloat ? 256 : 32,
                kBias = kIsBFloat ? 127 : 15;
  const int exponent = static_cast<int>(bits >> kMantissa) % kExponents;
  const int mantissa = static_cast<int>(bits & ((1u << kMantissa) - 1));
  double magnitude = std::ldexp(exponent == 0 ? mantissa : mantissa + (1 << kMantissa),
                                (exponent == 0 ? 1 : exponent) - kBias - kMantissa);
  if (exponent == kExponents - 1)
    magnitude =
        mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  return bits >> 15 != 0 ? -magnitude : magnitude;
}
template <class Half>
float widened(Half half) {
  return static_cast<float>(value_of<Half>(half.bits));  // exact: every half is a float
}
template <class To, class Half>
std::vector<To> widened(const std::vector<Half>& halves) {
  std::vector<To> all;
  for (Half half : halves) all.push_back(widened(half));
  return all;
}

// The halves from 0 up to infinity, which stands where the next number would be.
template <class Half>
const std::vector<double>& magnitudes() {
  static const std::vector<double> all = [] {
    std::vector<double> x;
    for (unsigned bits = 0; std::isfinite(value_of<Half>(bits)); ++bits) x.push_back(value_of<Half>(bits));
    x.push_back(2 * x.back() - x[x.size() - 2]);
    return x;
  }();
  return all;
}
// Round to nearest, ties to even.
template <class Half>
Half nearest(float x) {
  const std::vector<double>& all = magnitudes<Half>();
  const double magnitude = std::fabs(static_cast<double>(x));
  auto above = static_cast<std::size_t>(std::lower_bound(all.begin(), all.end(), magnitude) - all.begin());
  above = std::min(above, all.size() - 1);
  const std::size_t below = above == 0 ? 0 : above - 1;
  const double up = all[above] - magnitude, down = magnitude - all[below];
  const std::size_t bits = down < up || (down == up && below % 2 == 0) ? below : above;
  return {static_cast<std::uint16_t>(bits | (std::signbit(x) ? 0x8000u : 0u))};
}
template <class Half>
std::vector<Half> nearest(const std::vector<float>& x) {
  std::vector<Half> all;
  for (float v : x) all.push_back(nearest<Half>(v));
  return all;
}
template <class Half>
bool is_nan(Half half) {
  return std::isnan(value_of<Half>(half.bits));
}

template <class T>
kdloss::View<const T> view(const std::vector<T>& x, std::int64_t rows, std::int64_t classes) {
  return {x.data(), rows, classes};
}

const std::int64_t kClasses[] = {1, 3, 17, 144, 256, 257, 300, 2100};

// The same numbers in a batch of floats and as halves.
template <class Half>
struct HalfBatch {
  FullBatch<float> floats;
  unsigned uses;
  std::vector<Half> student, teacher, probabilities;
  HalfBatch(std::int64_t rows, std::int64_t classes, unsigned uses_)
      : floats(full_batch<float>(rows, classes, uses_)), uses(uses_) {
    const auto round = [](std::vector<float>& x, std::vector<Half>& halves) {
      for (float& v : x) {
        halves.push_back(std::isnan(v) ? Half{0x7fff} : nearest<Half>(v));
        v = widened(halves.back());
      }
    };
    round(floats.student, student), round(floats.teacher, teacher);
    for (float& y : floats.probabilities)
      if (y != 0 && y < 1e-4f) y = 0;
    round(floats.probabilities, probabilities);
    // Halves of probabilities may miss the sum of 1 by more than is allowed: halves of the smallest kind
    // instead.
    for (std::int64_t i = 0; floats.soft() && i < rows; ++i) {
      double total = 0;
      for (Real y : floats.row(floats.probabilities, i)) total += static_cast<double>(y);
      if (!floats.counts(i) || total == 0 || std::fabs(total - 1) < 0.0009) continue;
      for (std::int64_t c = 0; c < classes; ++c) set_probability(i, c, c == i % classes ? 1 : 0);
    }
  }
  void set_probability(std::int64_t i, std::int64_t c, float y) {
    const std::size_t at = floats.at(i * floats.classes + c);
    floats.probabilities[at] = y, probabilities[at] = nearest<Half>(y);
  }
  kdloss::Labels labels() const {
    return floats.soft() ? kdloss::Labels(view(probabilities, floats.rows, floats.classes))
                         : floats.label_view();
  }
};

template <class Use>
void for_half_batches(Use&& use) {
  for (std::int64_t classes : kClasses)
    for (unsigned uses : {0u, unsigned(kAll), kAll & ~unsigned(kSoftLabels)}) {
      const std::string name = check::text(classes, " classes, options ", uses);
      use(HalfBatch<Float16>(35, classes, uses), name + ", Float16");
      use(HalfBatch<BFloat16>(35, classes, uses), name + ", BFloat16");
    }
}

// A teacher of T, whatever is in it, beside the same as floats. Each row's temperature is of the size of its
// numbers, where the gradient shows their last bits.
template <class Half, class Student>
void check_every_pattern(std::int64_t classes) {
  const std::int64_t per_row = classes - 1, rows = (0x10000 + per_row - 1) / per_row;
  const auto size = static_cast<std::size_t>(rows * classes);
  std::vector<Half> teacher(size, Half{0});
  std::vector<double> taus(static_cast<std::size_t>(rows), 1);
  for (std::int64_t bits = 0; bits < 0x10000; ++bits) {
    const double x = value_of<Half>(static_cast<unsigned>(bits));
    double& tau = taus[static_cast<std::size_t>(bits / per_row)];
    if (!std::isfinite(x)) continue;
    teacher[static_cast<std::size_t>(bits / per_row * classes + 1 + bits % per_row)].bits =
        static_cast<std::uint16_t>(bits);
    tau = bits % per_row == 0 && x != 0 ? std::fabs(x) : std::max(tau, std::fabs(x));
  }
  const std::vector<Student> wide = widened<Student>(teacher), student(size, Student(0));
  kdloss::Options options;
  options.alpha = 0, options.taus = taus.data(), options.reduction = kdloss::Reduction::kSum;
  const Outcome<Student> found =
      outcome<Student>(view(student, rows, classes), view(teacher, rows, classes), {}, options);
  const Outcome<Student> expected =
      outcome<Student>(view(student, rows, classes), view(wide, rows, classes), {}, options);
  const std::string where =
      check::text(classes, " classes, ", std::is_same_v<Half, Float16> ? "Float16" : "BFloat16");
  CHECK_AT(found == expected, where);
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < size; ++i) wrong += check::same_bits(found.grad[i], expected.grad[i]) ? 0 : 1;
  CHECK_AT(wrong == 0, where, ", ", wrong, " numbers of the gradient");
}

// A student of halves whose gradient is w/2 and -w/2 for every w beside the border between two halves: the
// middle, which is a tie, and the floats next to it.
template <class Half>
void check_every_border() {
  const std::vector<double>& all = magnitudes<Half>();
  std::vector<double> weights;
  std::int64_t ties = 0;
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    const auto middle = static_cast<float>((all[i] + all[i + 1]) / 2);
    for (float x : {static_cast<float>(all[i]), std::nextafter(middle, 0.0f), middle,
                    std::nextafter(middle, std::numeric_limits<float>::max())})
      if (x > 0 && x < 1e38f) weights.push_back(2 * static_cast<double>(x));
  }
  const auto rows = static_cast<std::int64_t>(weights.size());
  for (std::int64_t classes : {2, 150}) {
    const std::int64_t n = classes == 2 ? rows : std::min<std::int64_t>(rows, 4000);
    const auto size = static_cast<std::size_t>(n * classes);
    std::vector<Half> student(size);
    for (std::size_t at = 0; at < size; ++at)
      if (static_cast<std::int64_t>(at) % classes > 1)
        student[at] = {std::is_same_v<Half, Float16> ? std::uint16_t(0xfc00)
                                                     : std::uint16_t(0xff80)};  // masked
    const std::vector<float> wide = widened<float>(student);
    const std::vector<std::int64_t> labels(static_cast<std::size_t>(n), 1);
    kdloss::Options options;
    options.alpha = 1, options.sample_weight = weights.data() + (rows - n);
    options.reduction = kdloss::Reduction::kSum;
    const Outcome<Half> found =
        outcome<Half>(view(student, n, classes), view(student, n, classes), {labels.data(), n}, options);
    const Outcome<float> expected =
        outcome<float>(view(wide, n, classes), view(wide, n, classes), {labels.data(), n}, options);
    for (float g : expected.grad) {
      const double magnitude = std::fabs(static_cast<double>(g));
      const auto above = std::upper_bound(all.begin(), all.end(), magnitude);
      ties += above != all.end() && above != all.begin() && *above - magnitude == magnitude - above[-1];
    }
    CHECK_AT(check::same_bits(found.grad, nearest<Half>(expected.grad)), classes, " classes");
    CHECK_AT(check::same_bits(found.hess, nearest<Half>(expected.hess)), classes, " classes");
    CHECK_AT(check::same_bits(found.loss, expected.loss), classes, " classes");
  }
  CHECK_AT(ties >= 30000, ties, " ties");
}

}  // namespace

KD_CASE(halves.every_pattern_of_a_teacher) {
  for (std::int64_t classes : {2, 33, 150}) {
    check_every_pattern<Float16, float>(classes);
    check_every_pattern<BFloat16, float>(classes);
    check_every_pattern<Float16, double>(classes);
    check_every_pattern<BFloat16, double>(classes);
  }
}

KD_CASE(halves.nan_and_infinity_of_a_teacher) {
  for (std::int64_t classes : {3, 150})
    for (unsigned bits = 0; bits < 0x10000; ++bits) {
      const auto check = [&](auto half) {
        using Half = decltype(half);
        const double x = value_of<Half>(bits);
        if (std::isfinite(x) || (bits & 0xfffu) % 97 > 2) return;  // some of the many NaN
        half.bits = static_cast<std::uint16_t>(bits);
        std::vector<Half> teacher(static_cast<std::size_t>(classes), Half{0});
        teacher[1] = half;
        const std::vector<float> student(teacher.size(), 0.0f);
        kdloss::Options options;
        options.alpha = 0;
        const Outcome<float> found =
            outcome<float>(view(student, 1, classes), view(teacher, 1, classes), {}, options);
        const bool masked = x < 0;  // -inf: the others share what it had
        CHECK_AT(masked ? found.loss[0] > 0 : std::isnan(found.loss[0]), classes, " classes, bits ", bits);
        for (float g : found.grad)
          CHECK_AT(masked ? std::isfinite(g) : std::isnan(g), classes, " classes, bits ", bits);
      };
      check(Float16{}), check(BFloat16{});
    }
}

KD_CASE(halves.every_border_of_a_gradient) {
  check_every_border<Float16>();
  check_every_border<BFloat16>();
}

// Too large for a Float16 is infinity, too small is zero with its sign, and NaN is NaN.
KD_CASE(halves.gradients_beyond_the_range) {
  for (std::int64_t classes : {2, 150}) {
    struct Expected {
      double weight;
      unsigned at_first, at_label;
    };
    for (const Expected x : {Expected{2 * 65504.0, 0x7bff, 0xfbff},
                             {2 * 65519.0, 0x7bff, 0xfbff},
                             {2 * 65520.0, 0x7c00, 0xfc00},
                             {1e9, 0x7c00, 0xfc00},
                             {0x1p-23, 0x0001, 0x8001},
                             {0x1p-24, 0x0000, 0x8000},
                             {0x1.8p-24, 0x0001, 0x8001},
                             {1e-30, 0x0000, 0x8000}}) {
      std::vector<Float16> student(static_cast<std::size_t>(classes), Float16{0xfc00}), grad(student);
      student[0] = student[1] = {0};
      const std::int64_t label = 1;
      kdloss::Options options;
      options.alpha = 1, options.sample_weight = &x.weight, options.reduction = kdloss::Reduction::kSum;
      kdloss::kd_loss_and_grad<Float16>(view(student, 1, classes), {}, {&label, 1}, {grad.data(), 1, classes},
                                        options);
      CHECK_AT(grad[0].bits == x.at_first, classes, " classes, weight ", x.weight, ": ", grad[0].bits);
      CHECK_AT(grad[1].bits == x.at_label, classes, " classes, weight ", x.weight, ": ", grad[1].bits);
      student[0] = {0x7e00};
      kdloss::kd_loss_and_grad<Float16>(view(student, 1, classes), {}, {&label, 1}, {grad.data(), 1, classes},
                                        options);
      for (Float16 g : grad) CHECK_AT(is_nan(g), classes, " classes");
    }
  }
}

// Student, teacher and soft labels all halves, with every option.
KD_CASE(halves.give_what_floats_give) {
  for_half_batches([](const auto& halves, const std::string& name) {
    using Half = typename std::decay_t<decltype(halves.student)>::value_type;
    const FullBatch<float>& floats = halves.floats;
    const Outcome<float> expected = outcome(floats);
    const Outcome<Half> found =
        outcome<Half>(view(halves.student, floats.rows, floats.classes),
                      view(halves.teacher, floats.rows, floats.classes), halves.labels(), floats.options());
    CHECK_AT(check::same_bits(found.loss, expected.loss), name);
    CHECK_AT(check::same_bits(found.hard, expected.hard) && check::same_bits(found.soft, expected.soft),
             name);
    CHECK_AT(check::same_bits(found.value, expected.value), name);
    CHECK_AT(check::same_bits(found.parts.loss, expected.parts.loss) &&
                 check::same_bits(found.parts.hard, expected.parts.hard) &&
                 check::same_bits(found.parts.soft, expected.parts.soft),
             name);
    CHECK_AT(check::same_bits(found.grad, nearest<Half>(expected.grad)), name);
    CHECK_AT(check::same_bits(found.hess, nearest<Half>(expected.hess)), name);
  });
}

// Halves in any layout, with the gradient in a layout of its own or in the student's place.
KD_CASE(halves.any_layout) {
  for_half_batches([](const auto& halves, const std::string& name) {
    using Half = typename std::decay_t<decltype(halves.student)>::value_type;
    const FullBatch<float>& floats = halves.floats;
    const std::int64_t rows = floats.rows, classes = floats.classes;
    if (classes > 300) return;
    const Outcome<float> expected = outcome(floats);
    const std::vector<Half> expected_grad = nearest<Half>(expected.grad), any(halves.student.size());
    const std::vector<Half> expected_hess = nearest<Half>(expected.hess);
    for (int i = 0; i < kLayouts; ++i) {
      const auto layout = [&](int step) { return static_cast<Layout>((i + step) % kLayouts); };
      Placed<Half> student(layout(0), halves.student, rows, classes);
      const Placed<Half> teacher(layout(3), halves.teacher, rows, classes);
      const Placed<Half> probabilities(layout(5), floats.soft() ? halves.probabilities : any, rows, classes);
      const kdloss::Labels labels =
          floats.soft() ? kdloss::Labels(probabilities.const_view()) : floats.label_view();
      Placed<Half> grad(layout(1), any, rows, classes), hess(layout(6), any, rows, classes);
      std::vector<float> loss(expected.loss.size());
      for (Placed<Half>* out : {&grad, &student}) {
        kdloss::kd_loss_grad_hess<Half>(student.const_view(), teacher.const_view(), labels, out->view(),
                                        hess.view(), floats.options(), loss.data());
        CHECK_AT(check::same_bits(loss, expected.loss), name, " layout ", i);
        CHECK_AT(check::same_bits(out->values(), expected_grad), name, " layout ", i);
        CHECK_AT(check::same_bits(hess.values(), expected_hess), name, " layout ", i);
        CHECK_AT(out->filling_is_whole() && hess.filling_is_whole(), name, " layout ", i);
      }
    }
  });
}

KD_CASE(halves.any_number_of_threads) {
  for (std::int64_t classes : {10, 145, 2100}) {
    const HalfBatch<Float16> halves(101, classes, kAll);
    kdloss::Options options = halves.floats.options();
    const auto with_threads = [&](int threads) {
      options.num_threads = threads;
      return outcome<Float16>(view(halves.student, 101, classes), view(halves.teacher, 101, classes),
                              halves.labels(), options);
    };
    const Outcome<Float16> alone = with_threads(1);
    for (int threads : {2, 7})
      CHECK_AT(with_threads(threads) == alone, classes, " classes, ", threads, " threads");
  }
}

namespace {
// Teachers and soft labels of one type beside students of another, in any layout: as if they had been rounded
// to the type that is computed in.
template <class Student, class Other>
void check_mixed(const char* name) {
  for (std::int64_t classes : kClasses) {
    if (classes > 300) continue;
    const FullBatch<Student> batch = full_batch<Student>(35, classes);
    const FullBatch<Other> other = full_batch<Other>(35, classes);
    FullBatch<Student> rounded = batch;
    for (std::size_t i = 0; i < other.teacher.size(); ++i) {
      rounded.teacher[i] = static_cast<Student>(other.teacher[i]);
      rounded.probabilities[i] = static_cast<Student>(other.probabilities[i]);
    }
    const Outcome<Student> expected = outcome(rounded);
    for (int i = 0; i < kLayouts; ++i) {
      const Placed<Other> teacher(static_cast<Layout>(i), other.teacher, 35, classes);
      const Placed<Other> probabilities(static_cast<Layout>((i + 3) % kLayouts), other.probabilities, 35,
                                        classes);
      const Outcome<Student> found =
          outcome<Student>(batch.student_view(), teacher.const_view(),
                           kdloss::Labels(probabilities.const_view()), batch.options());
      CHECK_AT(found == expected, name, ", ", classes, " classes, layout ", i);
    }
  }
}
}  // namespace

KD_CASE(halves.teachers_of_another_type) {
  check_mixed<float, double>("a float student with a double teacher");
  check_mixed<double, float>("a double student with a float teacher");
}

KD_CASE(halves.teachers_of_halves) {
  for_half_batches([](const auto& halves, const std::string& name) {
    const FullBatch<float>& floats = halves.floats;
    const Outcome<float> expected = outcome(floats);
    const Outcome<float> found =
        outcome<float>(floats.student_view(), view(halves.teacher, floats.rows, floats.classes),
                       halves.labels(), floats.options());
    CHECK_AT(found == expected, name);

    FullBatch<double> doubles = full_batch<double>(floats.rows, floats.classes, halves.uses);
    doubles.teacher = widened<double>(halves.teacher);
    doubles.probabilities = widened<double>(halves.probabilities);
    const Outcome<double> double_expected = outcome(doubles);
    const Outcome<double> double_found =
        outcome<double>(doubles.student_view(), view(halves.teacher, floats.rows, floats.classes),
                        halves.labels(), doubles.options());
    CHECK_AT(double_found == double_expected, name);
  });
}
