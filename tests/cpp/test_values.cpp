// The rules of value: NaN, infinities, masks, and logits at the end of their type's range. Each in rows of
// few classes and of many, beside ordinary rows that must not notice.
#include <cstring>
#include <type_traits>

#include "compare.hpp"

namespace {

const std::int64_t kClasses[] = {1, 2, 5, 144, 256, 257, 300, 1100};
constexpr std::int64_t kRows = 18, kRow = 5;  // the row that is changed

template <class T>
constexpr T kInfinityOf = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
template <class T>
constexpr T kLowest = std::numeric_limits<T>::lowest();

// Ordinary rows.
template <class T>
Batch<T> plain_batch(std::int64_t classes) {
  Random random(static_cast<std::uint64_t>(classes));
  Batch<T> batch(kRows, classes);
  for (std::int64_t i = 0; i < kRows; ++i)
    fill(Kind::kOrdinary, random, classes, &batch.s(i, 0), &batch.t(i, 0));
  for (auto& label : batch.labels) label = random.below(classes);
  return batch;
}

template <class T>
bool is_nan_row(const Batch<T>& batch, const Result<T>& r, std::int64_t row) {
  if (!std::isnan(r.loss[static_cast<std::size_t>(row)])) return false;
  for (Real g : batch.row(r.grad, row))
    if (!std::isnan(g)) return false;
  return true;
}

template <class T>
bool other_rows_are_untouched(const Batch<T>& batch, const Result<T>& before, const Result<T>& after) {
  for (std::int64_t i = 0; i < batch.rows; ++i) {
    if (i == kRow) continue;
    const auto row = static_cast<std::size_t>(i);
    if (!check::same_bits(before.loss[row], after.loss[row])) return false;
    if (batch.row(before.grad, i) != batch.row(after.grad, i)) return false;
  }
  return true;
}

// The whole batch against the reference, whose rules are the same.
template <class T>
void check_against_reference(const Batch<T>& batch, const std::string& what) {
  Comparison<T> comparison;
  comparison.add(batch, check::text(what, ", ", batch.classes, " classes"),
                 [&](std::int64_t i) { return batch.truth(i); });
}

// A special value anywhere in a row of either model gives NaN in that row only.
template <class T>
void check_makes_nan(T value) {
  for (std::int64_t classes : kClasses)
    for (double alpha : {0.0, 0.5, 1.0}) {
      const Batch<T> plain = plain_batch<T>(classes);
      const Result<T> before = run(plain, alpha);
      for (std::int64_t c : {std::int64_t(0), plain.labels[kRow], classes / 2, classes - 1})
        for (bool in_student : {true, false}) {
          if (!in_student && alpha == 1) continue;  // the teacher is not used
          Batch<T> batch = plain;
          (in_student ? batch.s(kRow, c) : batch.t(kRow, c)) = value;
          const Result<T> after = run(batch, alpha);
          const std::string where =
              check::text(classes, " classes, class ", c, in_student ? " of the student" : " of the teacher",
                          ", alpha ", alpha);
          CHECK_AT(is_nan_row(batch, after, kRow), where);
          CHECK_AT(other_rows_are_untouched(batch, before, after), where);
        }
    }
}

}  // namespace

KD_CASE_EACH_TYPE(values.nan) { check_makes_nan(kNan<T>); }

// NaN with something in its other bits, as R's NA has: arithmetic on its bits would make a number of it.
KD_CASE_EACH_TYPE(values.nan_with_a_payload) {
  using Bits = std::conditional_t<sizeof(T) == sizeof(float), std::uint32_t, std::uint64_t>;
  constexpr int kMantissaBits = std::numeric_limits<T>::digits - 1;
  const Bits infinity = ((Bits(1) << (8 * sizeof(T) - 1 - kMantissaBits)) - 1) << kMantissaBits;
  const Bits quiet = Bits(1) << (kMantissaBits - 1), sign = Bits(1) << (8 * sizeof(T) - 1);
  for (Bits payload :
       {quiet | 1, quiet | 1954, quiet | 129, sign | quiet | 1, quiet | 0x3fffff, Bits(1954)}) {
    const Bits bits = infinity | payload;
    T value;
    std::memcpy(&value, &bits, sizeof value);
    check_makes_nan(value);
  }
}

KD_CASE_EACH_TYPE(values.plus_infinity) { check_makes_nan(kInfinityOf<T>); }

KD_CASE_EACH_TYPE(values.all_masked) {
  for (std::int64_t classes : kClasses)
    for (double alpha : {0.0, 0.5, 1.0})
      for (bool in_student : {true, false}) {
        if (!in_student && alpha == 1) continue;
        Batch<T> batch = plain_batch<T>(classes);
        const Result<T> before = run(batch, alpha);
        for (std::int64_t c = 0; c < classes; ++c)
          (in_student ? batch.s(kRow, c) : batch.t(kRow, c)) = -kInfinityOf<T>;
        const Result<T> after = run(batch, alpha);
        CHECK_AT(is_nan_row(batch, after, kRow), classes, " classes, alpha ", alpha,
                 in_student ? " student" : " teacher");
        CHECK_AT(other_rows_are_untouched(batch, before, after), classes, " classes");
      }
}

// NaN in one part does not affect the other part.
KD_CASE_EACH_TYPE(values.nan_of_the_teacher_spares_the_hard_part) {
  for (std::int64_t classes : kClasses) {
    Batch<T> batch = plain_batch<T>(classes);
    std::vector<T> hard(kRows), soft(kRows), expected(kRows);
    kdloss::kd_loss_parts<T>(batch.student_view(), batch.teacher_view(), batch.label_view(), {}, nullptr,
                             expected.data());
    batch.t(kRow, 0) = kNan<T>;
    kdloss::kd_loss_parts<T>(batch.student_view(), batch.teacher_view(), batch.label_view(), {}, nullptr,
                             hard.data(), soft.data());
    CHECK_AT(std::isnan(soft[kRow]), classes, " classes");
    check::Worst worst("hard loss", tolerance::kPromise<T>);
    for (std::size_t i = 0; i < hard.size(); ++i)
      worst.add(relative_error<T>(hard[i], expected[i], expected[i]), "row ", i);
    CHECK_HOLDS(worst);
  }
}

// A part of weight 0 is exactly 0, whatever its inputs hold.
KD_CASE_EACH_TYPE(values.teacher_is_not_used_at_alpha_one) {
  for (std::int64_t classes : kClasses) {
    const Batch<T> plain = plain_batch<T>(classes);
    const Result<T> expected = run(plain, 1);
    for (T value : {kNan<T>, kInfinityOf<T>, -kInfinityOf<T>}) {
      Batch<T> batch = plain;
      batch.teacher.assign(batch.teacher.size(), value);
      const Result<T> found = run(batch, 1);
      CHECK_AT(check::same_bits(found.loss, expected.loss), classes, " classes, ", value);
      CHECK_AT(check::same_bits(found.grad, expected.grad), classes, " classes, ", value);
    }
  }
}

KD_CASE_EACH_TYPE(values.label_is_not_used_at_alpha_zero) {
  for (std::int64_t classes : kClasses) {
    if (classes == 1) continue;
    Batch<T> batch = plain_batch<T>(classes);
    for (std::int64_t i = 0; i < kRows; ++i)
      batch.s(i, 0) = batch.t(i, 0) = -kInfinityOf<T>;  // masked by both
    const Result<T> expected = run(batch, 0);
    batch.labels.assign(kRows, 0);
    const Result<T> found = run(batch, 0);
    CHECK_AT(check::same_bits(found.loss, expected.loss), classes, " classes");
    CHECK_AT(check::same_bits(found.grad, expected.grad), classes, " classes");
    CHECK(std::isfinite(found.loss[kRow]));
  }
}

KD_CASE_EACH_TYPE(values.infinite_part_of_weight_zero) {
  for (std::int64_t classes : kClasses) {
    if (classes < 3) continue;
    Batch<T> batch = plain_batch<T>(classes);
    const auto parts_at = [&](double alpha, T& loss, T& hard, T& soft) {
      std::vector<T> losses(kRows), hards(kRows), softs(kRows);
      kdloss::Options options;
      options.alpha = alpha;
      kdloss::kd_loss_parts<T>(batch.student_view(), batch.teacher_view(), batch.label_view(), options,
                               losses.data(), hards.data(), softs.data());
      loss = losses[kRow], hard = hards[kRow], soft = softs[kRow];
    };
    T loss, hard, soft;
    batch.labels[kRow] = 0;
    batch.s(kRow, 0) = batch.t(kRow, 0) = -kInfinityOf<T>;  // only the label wants class 0
    parts_at(0, loss, hard, soft);
    CHECK_AT(hard == kInfinityOf<T> && std::isfinite(soft) && loss == soft, classes, " classes");
    batch.labels[kRow] = 1;
    batch.t(kRow, 0) = 0;  // only the teacher wants it
    parts_at(1, loss, hard, soft);
    CHECK_AT(soft == kInfinityOf<T> && std::isfinite(hard) && loss == hard, classes, " classes");
  }
}

// -inf masks: probability 0. Every third class masked, by one or by both.
KD_CASE_EACH_TYPE(values.masked_by_the_teacher) {
  for (std::int64_t classes : kClasses) {
    if (classes < 3) continue;
    Batch<T> batch = plain_batch<T>(classes);
    for (std::int64_t c = 0; c < classes; c += 3) batch.t(kRow, c) = -kInfinityOf<T>;
    check_against_reference(batch, "masked by the teacher");
    const Result<T> r = run(batch, 0);
    CHECK(std::isfinite(r.loss[kRow]) &&
          r.grad[static_cast<std::size_t>(kRow * classes)] > 0);  // tau p, towards 0
  }
}

KD_CASE_EACH_TYPE(values.masked_by_both_is_as_if_the_class_were_not_there) {
  for (std::int64_t classes : kClasses) {
    if (classes < 3) continue;
    Batch<T> batch = plain_batch<T>(classes);
    Batch<T> without(1, classes - (classes + 2) / 3);
    std::int64_t kept = 0;
    for (std::int64_t c = 0; c < classes; ++c) {
      if (c % 3 == 0) {
        batch.s(kRow, c) = batch.t(kRow, c) = -kInfinityOf<T>;
      } else {
        without.s(0, kept) = batch.s(kRow, c);
        without.t(0, kept) = batch.t(kRow, c);
        ++kept;
      }
    }
    batch.labels[kRow] = 1;
    without.labels[0] = 0;
    check_against_reference(batch, "masked by both");
    const Result<T> found = run(batch, 0.5), expected = run(without, 0.5);
    check::Worst worst("loss without the masked classes", tolerance::kPromise<T>);
    worst.add(relative_error<T>(found.loss[kRow], expected.loss[0], expected.loss[0]), classes, " classes");
    CHECK_HOLDS(worst);
    CHECK(check::same_bits(found.grad[static_cast<std::size_t>(kRow * classes)], T(0)));
  }
}

KD_CASE_EACH_TYPE(values.masked_by_the_student_but_wanted_by_the_teacher) {
  for (std::int64_t classes : kClasses) {
    if (classes < 3) continue;
    for (T wish : {T(0), T(-1e5)}) {  // where its probability underflows to 0 too
      Batch<T> batch = plain_batch<T>(classes);
      batch.labels[kRow] = 1;
      batch.s(kRow, classes - 1) = -kInfinityOf<T>;
      batch.t(kRow, classes - 1) = wish;
      const Result<T> r = run(batch, 0.5);
      CHECK_AT(r.loss[kRow] == kInfinityOf<T>, classes, " classes, teacher's logit ", wish);
      for (Real g : batch.row(r.grad, kRow))
        CHECK_AT(std::isfinite(g), classes, " classes, teacher's logit ", wish);
      check_against_reference(batch, "masked by the student");  // the gradient keeps its finite value
    }
  }
}

KD_CASE_EACH_TYPE(values.label_on_a_class_that_the_student_masks) {
  for (std::int64_t classes : kClasses) {
    if (classes < 3) continue;
    for (std::int64_t label : {std::int64_t(0), classes / 2, classes - 1}) {
      Batch<T> batch = plain_batch<T>(classes);
      batch.labels[kRow] = label;
      batch.s(kRow, label) = batch.t(kRow, label) = -kInfinityOf<T>;
      for (double alpha : {0.5, 1.0}) {
        const Result<T> r = run(batch, alpha);
        CHECK_AT(r.loss[kRow] == kInfinityOf<T>, classes, " classes, label ", label);
        for (Real g : batch.row(r.grad, kRow)) CHECK_AT(std::isfinite(g), classes, " classes, label ", label);
      }
      check_against_reference(batch, "label on a masked class");
    }
  }
}

// finfo.min is a common mask: a finite logit, whose probability underflows to 0.
KD_CASE_EACH_TYPE(values.lowest_number_as_a_mask) {
  for (std::int64_t classes : kClasses) {
    if (classes < 3) continue;
    Batch<T> batch = plain_batch<T>(classes);
    for (std::int64_t c = 0; c < classes; c += 3) batch.s(kRow, c) = batch.t(kRow, c) = kLowest<T>;
    batch.labels[kRow] = 1;
    check_against_reference(batch, "lowest number in both");
    for (std::int64_t c = 0; c < classes; c += 3) batch.s(kRow, c) = 0;
    check_against_reference(batch, "lowest number in the teacher");
  }
}

// What finite rows can do at the most: a part of the loss may be beyond the type, which is +inf, but nothing
// is NaN, and the gradient is what it is.
KD_CASE_EACH_TYPE(values.differences_that_overflow) {
  const T high = std::numeric_limits<T>::max(), low = kLowest<T>;
  struct Logits {
    const char* what;
    T s_first, s_rest, t_first, t_rest;
  };
  const Logits all[] = {
      {"the student lowest where the teacher wants", low, 1, 2, 1},
      {"opposite ends", low, high, high, low},
      {"the same ends", low, high, low, high},
      {"all lowest, all highest", low, low, high, high},
      {"all lowest, ordinary", low, low, 2, 1},
      {"a peak out of reach", high, 1, 2, 1},
      {"a teacher's peak out of reach", 2, 1, high, 1},
      {"half way", low / 2, high / 2, high / 2, low / 2},
  };
  for (std::int64_t classes : kClasses) {
    if (classes < 2) continue;
    for (const Logits& x : all)
      for (std::int64_t label : {0, 1}) {
        Batch<T> batch = plain_batch<T>(classes);
        for (std::int64_t c = 0; c < classes; ++c) {
          batch.s(kRow, c) = c == 0 ? x.s_first : x.s_rest;
          batch.t(kRow, c) = c == 0 ? x.t_first : x.t_rest;
        }
        batch.labels[kRow] = label;
        const Truth truth = batch.truth(kRow);
        for (double alpha : {0.0, 0.5, 1.0}) {
          const Result<T> r = run(batch, alpha);
          const std::string where =
              check::text(x.what, ", ", classes, " classes, label ", label, ", alpha ", alpha);
          const Real hard = alpha == 0 ? 0 : truth.hard, soft = alpha == 1 ? 0 : truth.soft;
          const Real loss = alpha * hard + (1 - alpha) * soft;
          const bool beyond_the_type = hard > high || soft > high;
          CHECK_AT(relative_error<T>(r.loss[kRow], loss, loss) <= tolerance::kPromise<T> ||
                       (beyond_the_type && r.loss[kRow] == kInfinityOf<T>),
                   where, ": loss ", r.loss[kRow], ", expected ", loss);
          for (std::int64_t c = 0; c < classes; ++c) {
            const auto at = static_cast<std::size_t>(c);
            const Real expected = alpha * truth.grad_hard[at] + (1 - alpha) * truth.grad_soft[at];
            const Real most = std::max(alpha * largest_magnitude(truth.grad_hard),
                                       (1 - alpha) * largest_magnitude(truth.grad_soft));
            const T found = r.grad[static_cast<std::size_t>(kRow * classes + c)];
            CHECK_AT(relative_error<T>(found, expected, most) <= tolerance::kPromise<T>, where, ": gradient ",
                     found, ", expected ", expected);
          }
        }
      }
  }
}

// Any finite temperature above 0 is allowed; beyond the promise's range the results are still numbers.
// tau^2 KL is a number of the type where KL is none.
KD_CASE_EACH_TYPE(values.divergence_beyond_the_type) {
  for (std::int64_t classes : kClasses) {
    if (classes < 2) continue;
    Batch<T> batch(kRows, classes, 0.04);
    batch.s(kRow, 0) = kLowest<T>;
    batch.labels.assign(kRows, 1);
    Comparison<T> comparison;
    comparison.add(batch);
    CHECK_AT(std::isfinite(run(batch, 0).loss[kRow]), classes, " classes");
  }
}

// Whole blocks of a long row that both mask, or only one, and what else such a block may hold.
KD_CASE_EACH_TYPE(values.masked_blocks) {
  constexpr std::int64_t kBegin = 1024, kEnd = 3072, kLong = 5000;
  for (T mask : {-kInfinityOf<T>, kLowest<T>, T(-5e4)})
    for (Kind kind : {Kind::kOrdinary, Kind::kNear, Kind::kPeakedOnFlat}) {
      Random random(3);
      Batch<T> batch(4, kLong);
      for (std::int64_t i = 0; i < 4; ++i) fill(kind, random, kLong, &batch.s(i, 0), &batch.t(i, 0));
      for (std::int64_t c = kBegin; c < kEnd; ++c) {
        batch.s(0, c) = batch.t(0, c) = mask;
        batch.s(1, c) = mask, batch.t(1, c) = mask - (mask == T(-5e4));
        batch.t(2, c) = mask;
      }
      batch.labels = {0, 1500, 2000, 4000};
      const std::string what = check::text("mask ", mask, ", kind ", static_cast<int>(kind));
      Comparison<T>().add(batch, what, [&](std::int64_t i) { return batch.truth(i); });

      Batch<T> other = batch;
      other.t(0, 2000) = T(-1e6);  // which the student masks, or not
      Comparison<T>().add(other, what + ", wanted", [&](std::int64_t i) { return other.truth(i); });
      for (double alpha : {0.0, 0.5, 1.0}) {
        other = batch, other.s(0, 2000) = kNan<T>;
        CHECK_AT(is_nan_row(other, run(other, alpha), 0), what, ", NaN, alpha ", alpha);
      }
    }
}

KD_CASE_EACH_TYPE(values.extreme_temperatures) {
  for (std::int64_t classes : kClasses)
    for (double tau : {1e-300, 1e-60, 1e-30, 1e-10, 1e10, 1e30, 1e60, 1e300}) {
      Batch<T> batch = plain_batch<T>(classes);
      batch.tau = tau;
      const Result<T> r = run(batch, 0.5);
      for (T x : r.loss) CHECK_AT(x >= 0, classes, " classes, tau ", tau, ": loss ", x);
      for (T g : r.grad) CHECK_AT(!std::isnan(g), classes, " classes, tau ", tau);
    }
}
