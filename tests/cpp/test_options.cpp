// The options of the loss: each against the slow reference, and the same bits where they change nothing.
#include <stdexcept>

#include "full_batch.hpp"
#include "placed.hpp"
#include "tolerances.hpp"

namespace {

using kdloss::Reduction;

// Around the edges of the kernels: the lanes, the two layouts, a block and the next.
const std::int64_t kClasses[] = {1, 2, 3, 10, 16, 17, 144, 200, 256, 257, 1000, 2047, 2048, 3000};
// For tests without the reference, which need each path of the kernels only once.
const std::int64_t kFewClasses[] = {1, 3, 17, 144, 256, 257, 300, 2100};

template <class T>
class Comparison {
 public:
  void add(const FullBatch<T>& batch, const std::string& name) {
    const Outcome<T> found = outcome(batch);
    Real weight_sum = 0, labelled_weight = 0, loss_sum = 0, hard_sum = 0, soft_sum = 0;
    for (std::int64_t i = 0; i < batch.rows; ++i)
      if (batch.counts(i)) weight_sum += batch.weight(i);
    Real scale = 1;
    if (batch.reduction == Reduction::kMean && weight_sum > 0)
      scale = 1 / (batch.normalizer > 0 ? Real(batch.normalizer) : weight_sum);
    const Real curvature = batch.hessian == kdloss::Hessian::kBound ? 2 * scale : scale;

    for (std::int64_t i = 0; i < batch.rows; ++i) {
      const std::size_t row = batch.at(i);
      const std::string where = check::text(name, " row ", i);
      const std::vector<Real> grad = batch.row(found.grad, i), hess = batch.row(found.hess, i);
      if (!batch.counts(i)) {
        for (T x : {found.loss[row], found.part_loss[row], found.hard[row], found.soft[row]})
          CHECK_AT(check::same_bits(x, T(0)), where);
        CHECK_AT(largest_magnitude(grad) == 0 && largest_magnitude(hess) == 0, where);
        continue;
      }
      const FullTruth truth = batch.full_truth(i);
      const bool labelled = !batch.target(i).empty();
      const Real w = batch.weight(i), alpha = batch.alpha_of(i);
      const Real hard_part = alpha == 0 ? 0 : alpha * truth.hard;
      const Real soft_part = alpha == 1 ? 0 : (1 - alpha) * truth.soft;
      const Real loss = w * (hard_part + soft_part);
      loss_sum += loss, soft_sum += w * truth.soft;
      if (labelled) labelled_weight += w, hard_sum += w * truth.hard;
      add_loss(loss_, found.loss[row], loss, where);
      add_loss(loss_, found.part_loss[row], loss, where);
      add_loss(soft_, found.soft[row], truth.soft, where);
      if (labelled)
        add_loss(hard_, found.hard[row], truth.hard, where);
      else
        CHECK_AT(std::isnan(found.hard[row]), where);
      const Real most = std::max(alpha * truth.most_hard, (1 - alpha) * truth.most_soft) * w * scale;
      for (std::size_t c = 0; c < grad.size(); ++c) {
        const Real g = alpha * truth.grad_hard[c] + (1 - alpha) * truth.grad_soft[c];
        const Real h = alpha * truth.hess_hard[c] + (1 - alpha) * truth.hess_soft[c];
        grad_.add(relative_error<T>(grad[c], w * scale * g, most), where, " class ", c);
        hess_.add(relative_error<T>(hess[c], w * curvature * h, w * curvature * h), where, " class ", c);
      }
    }
    if (batch.reduction == Reduction::kNone) {
      CHECK_AT(found.value == 0, name);
      return;
    }
    add_loss(mean_, found.value, loss_sum * scale, name);
    add_loss(mean_, found.parts.loss, loss_sum * scale, name + " parts");
    add_loss(mean_, found.parts.soft, soft_sum * scale, name + " soft");
    if (batch.reduction == Reduction::kMean && batch.normalizer == 0) scale = 1 / labelled_weight;
    if (labelled_weight > 0)
      add_loss(mean_, found.parts.hard, hard_sum * scale, name + " hard");
    else
      CHECK_AT(std::isnan(found.parts.hard), name);
  }
  ~Comparison() {
    for (const check::Worst* worst : {&loss_, &hard_, &soft_, &mean_, &grad_, &hess_}) CHECK_HOLDS(*worst);
  }

 private:
  template <class Number>
  static void add_loss(check::Worst& worst, Number found, Real truth, const std::string& where) {
    CHECK_AT(found >= 0, where);
    worst.add(relative_error<T>(found, truth, truth), where);
  }
  static constexpr double kPromise = tolerance::kPromise<T>;
  check::Worst loss_{"loss", kPromise}, hard_{"hard loss", kPromise}, soft_{"soft loss", kPromise},
      mean_{"reduced loss", kPromise}, grad_{"gradient", kPromise}, hess_{"Hessian", kPromise};
};

constexpr unsigned kPerRow = kAlphas | kTaus | kWeights;
const unsigned kCombinations[] = {0,
                                  kWeights | kPaddingRows | kUnlabelledRows,
                                  kAlphas | kPaddingRows,
                                  kTaus | kUnlabelledRows,
                                  kClassWeights,
                                  kSmoothing | kUnlabelledRows,
                                  kSoftLabels | kUnlabelledRows,
                                  kNormalizer | kBound,
                                  kPerRow | kClassWeights | kPaddingRows,
                                  kSoftLabels | kClassWeights | kWeights | kPaddingRows,
                                  kAll & ~unsigned(kSoftLabels),
                                  kAll};

// Cuts rows [begin, end) out of a batch and adds their results to those of the others.
template <class T>
void run_rows(const FullBatch<T>& batch, std::int64_t begin, std::int64_t end, Outcome<T>& all) {
  const std::int64_t rows = end - begin, first = begin * batch.classes;
  kdloss::Labels labels(batch.labels.data() + begin, rows);
  if (batch.soft())
    labels = kdloss::Labels(
        kdloss::AnyView(kdloss::View<const T>(batch.probabilities.data() + first, rows, batch.classes)));
  const Outcome<T> part =
      outcome<T>({batch.student.data() + first, rows, batch.classes},
                 {batch.teacher.data() + first, rows, batch.classes}, labels, batch.options(begin));
  const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  append(all.loss, part.loss), append(all.part_loss, part.part_loss);
  append(all.hard, part.hard), append(all.soft, part.soft);
  append(all.grad, part.grad), append(all.hess, part.hess);
}
template <class T>
Outcome<T> run_blocks(const FullBatch<T>& batch, const std::vector<std::int64_t>& sizes) {
  Outcome<T> all;
  std::int64_t begin = 0;
  for (std::size_t i = 0; begin < batch.rows; ++i) {
    const std::int64_t end = std::min(batch.rows, begin + sizes[i % sizes.size()]);
    run_rows(batch, begin, end, all);
    begin = end;
  }
  return all;
}
template <class T>
bool same_rows(const Outcome<T>& a, const Outcome<T>& b) {
  Outcome<T> c = b;
  c.value = a.value, c.parts = a.parts;
  return a == c;
}

// All options at once, with soft labels and with class indices.
template <class T, class Use>
void for_full_batches(std::int64_t rows, Use&& use) {
  for (std::int64_t classes : kFewClasses)
    for (unsigned uses : {unsigned(kAll), kAll & ~unsigned(kSoftLabels), kAll & ~unsigned(kSmoothing)})
      use(full_batch<T>(rows, classes, uses), check::text(rows, " x ", classes, " options ", uses));
}

}  // namespace

KD_CASE_EACH_TYPE(options.against_the_reference) {
  Comparison<T> comparison;
  std::uint64_t seed = 0;
  for (std::int64_t classes : kClasses)
    for (unsigned uses : kCombinations) {
      const std::int64_t rows = classes < 100 ? 37 : classes < 1000 ? 23 : 11;
      for (std::int64_t n : {rows, std::int64_t(1)}) {
        FullBatch<T> batch = full_batch<T>(n, classes, uses, ++seed);
        const Reduction reductions[] = {Reduction::kMean, Reduction::kSum, Reduction::kNone};
        if (batch.normalizer == 0) batch.reduction = reductions[(seed / 2 + seed / 24) % 3];
        comparison.add(batch, check::text(n, " x ", classes, " options ", uses, " seed ", seed));
      }
    }
}

// Every remainder of rows beside the lanes.
KD_CASE_EACH_TYPE(options.any_number_of_rows) {
  Comparison<T> comparison;
  for (std::int64_t rows = 1; rows <= 35; ++rows)
    for (std::int64_t classes : {5, 150})
      for (unsigned uses : {unsigned(kAll), kAll & ~unsigned(kSoftLabels)})
        comparison.add(full_batch<T>(rows, classes, uses, static_cast<std::uint64_t>(rows)),
                       check::text(rows, " x ", classes, " options ", uses));
}

KD_CASE_EACH_TYPE(options.any_smoothing) {
  Comparison<T> comparison;
  for (std::int64_t classes : {2, 20, 200})
    for (double smoothing : {1e-9, 1e-3, 0.5, 1.0})
      for (unsigned uses : {0u, unsigned(kClassWeights), unsigned(kSoftLabels)}) {
        FullBatch<T> batch = full_batch<T>(20, classes, uses | kUnlabelledRows);
        batch.label_smoothing = smoothing;
        comparison.add(batch, check::text(classes, " classes, smoothing ", smoothing, " options ", uses));
      }
}

// A flat target and flat logits: W is far larger than the largest of W p1 and g.
KD_CASE_EACH_TYPE(options.flat_targets_of_flat_rows) {
  Comparison<T> comparison;
  for (std::int64_t classes : {2, 10, 144, 256, 257, 1000, 5000, 100000})
    for (double smoothing : {0.0, 1.0}) {
      FullBatch<T> batch = full_batch<T>(3, classes, 0, 2);
      for (T& s : batch.student) s /= T(1000);
      batch.alpha = 1, batch.label_smoothing = smoothing;
      if (smoothing == 0) batch.probabilities.assign(batch.student.size(), T(1) / static_cast<T>(classes));
      comparison.add(batch, check::text(classes, " classes, smoothing ", smoothing));
    }
}

// Each entry of the Hessian, where student and teacher are sure of different classes: p is then made of two
// large distances.
KD_CASE_EACH_TYPE(options.hessian_of_distant_peaks) {
  Comparison<T> comparison;
  Random random(5);
  for (std::int64_t classes : {3, 8, 100, 300})
    for (double height : {10.0, 30.0, 50.0, 67.0, 75.0})
      for (double tau : {1.0, 0.3, 4.0}) {
        FullBatch<T> batch = full_batch<T>(40, classes, 0);
        batch.alpha = 0, batch.tau = tau;
        for (std::int64_t i = 0; i < batch.rows; ++i)
          for (std::int64_t c = 0; c < classes; ++c) {
            batch.s(i, c) = static_cast<T>(tau * (random.normal() + (c == 0 ? height : 0)));
            batch.t(i, c) = static_cast<T>(tau * (random.normal() + (c == 1 ? height : 0)));
          }
        comparison.add(batch, check::text(classes, " classes, height ", height, ", tau ", tau));
      }
}

// Targets and Hessians of rows of few different logits, whose terms are rounded all alike.
KD_CASE_EACH_TYPE(options.few_different_logits) {
  Comparison<T> comparison;
  for (std::int64_t classes : {256, 2047}) {
    FullBatch<T> batch = full_batch<T>(1, classes, 0);
    batch.alpha = 1;
    const auto fill = [&](std::initializer_list<double> first, double rest) {
      std::fill(batch.student.begin(), batch.student.end(), static_cast<T>(rest));
      std::transform(first.begin(), first.end(), batch.student.begin(),
                     [](double s) { return static_cast<T>(s); });
    };
    const double middle = -0.052519362419843674;
    fill({8.476786613464355, middle, middle, middle, middle, middle, middle, middle, middle, middle, middle},
         -7.976716995239258);
    batch.labels = {0};
    comparison.add(batch, check::text(classes, " classes, Hessian"));
    batch.label_smoothing = 0.02089336649165685, batch.labels = {1};
    fill({2.115285634994507}, -14.785667419433594);
    comparison.add(batch, check::text(classes, " classes, smoothed"));
    batch.label_smoothing = 0;
    batch.probabilities.assign(batch.student.size(), T(8.272189e-7));
    batch.probabilities[0] = static_cast<T>(1 - 8.272189e-7 * static_cast<double>(classes - 1));
    fill({-5.050892353057861, 3}, -42.531490325927734);
    comparison.add(batch, check::text(classes, " classes, soft labels"));
  }
}

// Weights that are hardly numbers of T, or none, in a mean that is one.
KD_CASE_EACH_TYPE(options.tiny_weights) {
  Comparison<T> comparison;
  for (std::int64_t classes : {5, 300})
    for (double weight : {1e-30, 1e-40, 1e-46, 1e-290, 1e30})
      for (unsigned uses : {unsigned(kWeights), kWeights | kSmoothing, kWeights | kSoftLabels}) {
        FullBatch<T> batch = full_batch<T>(20, classes, uses);
        for (double& w : batch.sample_weight) w *= weight;
        comparison.add(batch, check::text(classes, " classes, weights ", weight, " options ", uses));
      }
}

// A gradient that is one of T, of weights that are none, or hardly, before they meet the temperature.
KD_CASE_EACH_TYPE(options.tiny_weights_of_large_gradients) {
  Comparison<T> comparison;
  for (std::int64_t classes : {3, 100, 300})
    for (double weight : {1e-30, 1e-42}) {
      FullBatch<T> batch = full_batch<T>(20, classes, kWeights);
      batch.tau = 1e6, batch.alpha = 0, batch.reduction = Reduction::kSum;
      for (double& w : batch.sample_weight) w *= weight;
      for (T& s : batch.student) s *= T(1e6);
      for (T& t : batch.teacher) t *= T(1e6);
      comparison.add(batch, check::text(classes, " classes, weights ", weight));
    }
}

// Masked by both models: probability 0, curvature 0. A mask on a class in the smoothed or soft target makes
// the loss +inf, and leaves the gradient finite; one on a class of weight 0 does not.
KD_CASE_EACH_TYPE(options.masked_classes) {
  constexpr T kMasked = -std::numeric_limits<T>::infinity();
  Comparison<T> comparison;
  for (std::int64_t classes : {4, 17, 150, 2100})
    for (unsigned uses : kCombinations) {
      FullBatch<T> batch = full_batch<T>(23, classes, uses);
      for (std::int64_t i = 0; i < batch.rows; i += 2)
        for (std::int64_t c = 1 + i % 4 / 2; c < classes; c += 3) batch.s(i, c) = batch.t(i, c) = kMasked;
      comparison.add(batch, check::text(classes, " classes, masked, options ", uses));
      for (T x : outcome(batch).grad) CHECK(std::isfinite(x));
    }
  for (std::int64_t classes : {4, 150}) {
    FullBatch<T> batch = full_batch<T>(1, classes, kSmoothing);
    batch.labels[0] = 1;
    batch.s(0, 2) = batch.t(0, 2) = kMasked;
    CHECK(outcome(batch).loss[0] == -kMasked);
    batch.class_weight.assign(static_cast<std::size_t>(classes), 1);
    batch.class_weight[2] = 0;
    CHECK(std::isfinite(outcome(batch).loss[0]));
    comparison.add(batch, check::text(classes, " classes, masked and of weight 0"));
  }
}

// A weight beyond T's range, on a class that no row's target contains, changes nothing.
KD_CASE_EACH_TYPE(options.weights_of_unwanted_classes_may_be_huge) {
  for (std::int64_t classes : {5, 256, 257, 300}) {
    FullBatch<T> batch = full_batch<T>(17, classes, kSoftLabels | kClassWeights);
    std::fill(batch.probabilities.begin(), batch.probabilities.end(), T(0));
    for (std::int64_t i = 0; i < batch.rows; ++i)
      batch.probabilities[batch.at(i * classes)] = T(0.25),
                                       batch.probabilities[batch.at(i * classes + 1)] = T(0.75);
    const Outcome<T> before = outcome(batch);
    batch.class_weight[2] = 1e300;
    const Outcome<T> after = outcome(batch);
    CHECK_AT(before.loss == after.loss && before.grad == after.grad, classes, " classes");
  }
}

// kBound is twice kExact, to the last bit of a normal number, and changes nothing else.
KD_CASE_EACH_TYPE(options.bound_is_twice_the_diagonal) {
  for_full_batches<T>(35, [](FullBatch<T> batch, const std::string& name) {
    const Outcome<T> bound = outcome(batch);
    batch.hessian = kdloss::Hessian::kExact;
    Outcome<T> exact = outcome(batch);
    constexpr T kLeast = 2 * std::numeric_limits<T>::min();
    for (std::size_t i = 0; i < exact.hess.size(); ++i) {
      T& h = exact.hess[i];
      h *= 2;
      if (h < kLeast && bound.hess[i] < kLeast) h = bound.hess[i];
    }
    CHECK_AT(exact == bound, name);
  });
}

// The Hessian changes neither the loss nor the gradient, and the gradient not the loss.
KD_CASE_EACH_TYPE(options.each_function_gives_the_same) {
  for_full_batches<T>(35, [](const FullBatch<T>& batch, const std::string& name) {
    const Outcome<T> all = outcome(batch);
    std::vector<T> grad(all.grad.size()), loss(all.loss.size());
    const double value =
        kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(), batch.target_view(),
                                    {grad.data(), batch.rows, batch.classes}, batch.options(), loss.data());
    CHECK_AT(check::same_bits(value, all.value) && check::same_bits(loss, all.loss), name);
    CHECK_AT(check::same_bits(grad, all.grad), name);
  });
}

// ---- Options that say what is so without them
KD_CASE_EACH_TYPE(options.weights_of_one) {
  for_full_batches<T>(35, [](FullBatch<T> batch, const std::string& name) {
    if (batch.soft()) {
      batch = full_batch<T>(35, batch.classes, kAll & ~unsigned(kPaddingRows));
    } else {
      for (std::int64_t i = 0; i < batch.rows; ++i)
        if (batch.weight(i) == 0) batch.labels[batch.at(i)] = kPadding;
    }
    for (double normalizer : {0.0, 12.5}) {
      batch.normalizer = normalizer;
      batch.sample_weight.clear();
      const Outcome<T> without = outcome(batch);
      batch.sample_weight.assign(batch.labels.size(), 1);
      CHECK_AT(outcome(batch) == without, name);
    }
  });
}

KD_CASE_EACH_TYPE(options.taus_all_equal) {
  for (double tau : {4.0, 1.0, 2.5, 1e-3})
    for_full_batches<T>(35, [&](FullBatch<T> batch, const std::string& name) {
      batch.taus.clear();
      batch.tau = tau;
      const Outcome<T> without = outcome(batch);
      batch.taus.assign(batch.labels.size(), tau);
      CHECK_AT(outcome(batch) == without, name, " tau ", tau);
    });
}

KD_CASE_EACH_TYPE(options.alphas_all_equal) {
  for (double alpha : {0.0, 0.3, 1.0})
    for_full_batches<T>(35, [&](FullBatch<T> batch, const std::string& name) {
      batch.alphas.clear();
      batch.alpha = alpha;
      const Outcome<T> without = outcome(batch);
      batch.alphas.assign(batch.labels.size(), alpha);
      CHECK_AT(outcome(batch) == without, name, " alpha ", alpha);
    });
}

// Where weights and alphas are all that rows with a class have of their own, lanes are filled in one go; a
// tau of each row makes a plan for each.
KD_CASE_EACH_TYPE(options.weights_and_alphas_in_one_go) {
  for (std::int64_t classes : {3, 17, 150})
    for (unsigned uses : {unsigned(kWeights), unsigned(kAlphas), kWeights | kAlphas}) {
      FullBatch<T> batch = full_batch<T>(53, classes, uses);
      if (uses == kWeights) batch.alpha = 1;  // so that a gradient has no part whose zero hides a -0
      const Outcome<T> in_one_go = outcome(batch);
      batch.taus.assign(53, batch.tau);
      CHECK_AT(outcome(batch) == in_one_go, classes, " classes, uses ", uses);
      if (uses & kWeights) {
        batch.sample_weight[5] = batch.sample_weight[16] = 0;
        if (uses & kAlphas) batch.alphas[5] = std::nan("");
        const Outcome<T> with_padding = outcome(batch);
        batch.taus.clear();
        CHECK_AT(outcome(batch) == with_padding, classes, " classes, padding, uses ", uses);
      }
    }
}

KD_CASE_EACH_TYPE(options.every_option_alone_that_changes_nothing) {
  for (std::int64_t classes : kFewClasses) {
    FullBatch<T> batch = full_batch<T>(35, classes, kPaddingRows | kUnlabelledRows);
    const Outcome<T> without = outcome(batch);
    const auto is_the_same = [&](const FullBatch<T>& with, const char* what) {
      CHECK_AT(outcome(with) == without, classes, " classes, ", what);
    };
    FullBatch<T> with = batch;
    with.sample_weight.assign(35, 1), is_the_same(with, "weights");
    with = batch, with.taus.assign(35, batch.tau), is_the_same(with, "taus");
    with = batch, with.alphas.assign(35, batch.alpha), is_the_same(with, "alphas");
    with = batch, with.class_weight.assign(static_cast<std::size_t>(classes), 1),
    is_the_same(with, "class weights");
  }
}

// Rows of zeros for -1, and weight 0 for padding.
KD_CASE_EACH_TYPE(options.one_hot_rows_are_class_indices) {
  for (std::int64_t classes : kFewClasses)
    for (unsigned uses : {0u, unsigned(kClassWeights), unsigned(kSmoothing), kAll & ~unsigned(kSoftLabels),
                          kAll & ~unsigned(kSoftLabels | kSmoothing)}) {
      FullBatch<T> batch = full_batch<T>(35, classes, uses | kWeights);
      for (std::size_t i = 0; i < batch.labels.size(); ++i)
        if (batch.labels[i] == kPadding) batch.sample_weight[i] = 0;
      const Outcome<T> of_indices = outcome(batch);
      batch.probabilities.assign(batch.student.size(), 0);
      for (std::int64_t i = 0; i < batch.rows; ++i) {
        T* const y = &batch.probabilities[batch.at(i * classes)];
        if (batch.weight(i) == 0)
          std::fill(y, y + classes, std::numeric_limits<T>::quiet_NaN());
        else if (batch.labels[batch.at(i)] >= 0)
          y[batch.labels[batch.at(i)]] = 1;
      }
      const Outcome<T> of_rows = outcome(batch);
      const std::string where = check::text(classes, " classes, options ", uses);
      CHECK_AT(of_rows == of_indices, where);
      CHECK_AT(same_rows(of_rows, of_indices), where, ", rows");
    }
}

KD_CASE_EACH_TYPE(options.labels_of_32_bits) {
  for (std::int64_t classes : kFewClasses)
    for (unsigned uses : {unsigned(kUnlabelledRows), kAll & ~unsigned(kSoftLabels)}) {
      const FullBatch<T> batch = full_batch<T>(35, classes, uses);
      for (std::int64_t stride : {1, 2, -1}) {
        std::vector<std::int32_t> spread(70, -7);  // between the labels lies what would be refused
        std::int32_t* const first = &spread[stride < 0 ? 34 : 0];
        for (std::int64_t i = 0; i < 35; ++i)
          first[i * stride] = batch.labels[batch.at(i)] > INT32_MAX
                                  ? INT32_MAX
                                  : static_cast<std::int32_t>(batch.labels[batch.at(i)]);
        const Outcome<T> found = outcome<T>(batch.student_view(), batch.teacher_view(),
                                            kdloss::Labels(first, 35, stride), batch.options());
        CHECK_AT(found == outcome(batch), classes, " classes, options ", uses, " stride ", stride);
      }
    }
}

// ---- However the work is divided
KD_CASE_EACH_TYPE(options.any_number_of_threads) {
  struct Shape {
    std::int64_t rows, classes;
  };
  for (auto [rows, classes] : {Shape{4099, 10}, {301, 256}, {301, 257}, {31, 2100}, {3, 40001}, {1, 70001}})
    for (unsigned uses : {unsigned(kAll), kAll & ~unsigned(kSoftLabels)}) {
      FullBatch<T> batch = full_batch<T>(rows, classes, uses);
      batch.threads = 1;
      const Outcome<T> alone = outcome(batch);
      for (int threads : {0, 2, 3, 7}) {
        batch.threads = threads;
        CHECK_AT(outcome(batch) == alone, rows, " x ", classes, " options ", uses, ", ", threads, " threads");
      }
    }
}

// With a normalizer, the gradients of micro-batches are rows of the whole batch's, to the last bit.
KD_CASE_EACH_TYPE(options.micro_batches) {
  for_full_batches<T>(70, [](FullBatch<T> batch, const std::string& name) {
    for (double normalizer : {12.5, 0.0}) {
      batch.normalizer = normalizer;
      if (normalizer == 0) batch.reduction = Reduction::kSum;
      const Outcome<T> whole = outcome(batch);
      for (const std::vector<std::int64_t>& sizes :
           {std::vector<std::int64_t>{1}, {7}, {16}, {17}, {3, 30, 1, 8}})
        CHECK_AT(same_rows(run_blocks(batch, sizes), whole), name, ", blocks of ", sizes[0]);
    }
  });
}

KD_CASE_EACH_TYPE(options.micro_batches_add_up) {
  for_full_batches<T>(70, [](const FullBatch<T>& batch, const std::string& name) {
    Outcome<T> parts;
    double value = 0;
    for (std::int64_t begin : {0, 35}) {
      const std::int64_t first = begin * batch.classes;
      kdloss::Labels labels(batch.labels.data() + begin, 35);
      if (batch.soft())
        labels = kdloss::Labels(
            kdloss::AnyView(kdloss::View<const T>(batch.probabilities.data() + first, 35, batch.classes)));
      value += kdloss::kd_loss_batch<T>({batch.student.data() + first, 35, batch.classes},
                                        {batch.teacher.data() + first, 35, batch.classes}, labels,
                                        batch.options(begin));
    }
    const double whole = outcome(batch).value;
    CHECK_AT(relative_error<double>(value, whole, whole) <= tolerance::kMean, name);
  });
}

// Every array in a layout of its own, and all in the same.
KD_CASE_EACH_TYPE(options.any_layout) {
  for (std::int64_t rows : {1, 35})
    for_full_batches<T>(rows, [](const FullBatch<T>& batch, const std::string& name) {
      if (batch.classes > 300) return;
      const Outcome<T> expected = outcome(batch);
      for (int i = 0; i < 2 * kLayouts; ++i) {
        const auto layout = [&](int step) {
          return static_cast<Layout>((i < kLayouts ? i + step : i) % kLayouts);
        };
        const Placed<T> student(layout(0), batch.student, batch.rows, batch.classes);
        const Placed<T> teacher(layout(3), batch.teacher, batch.rows, batch.classes);
        const std::vector<T> any(batch.student.size());
        const Placed<T> probabilities(layout(5), batch.soft() ? batch.probabilities : any, batch.rows,
                                      batch.classes);
        Placed<T> grad(layout(1), any, batch.rows, batch.classes);
        Placed<T> hess(layout(6), any, batch.rows, batch.classes);
        std::vector<T> loss(batch.labels.size());
        const kdloss::Labels labels =
            batch.soft() ? kdloss::Labels(probabilities.const_view()) : batch.label_view();
        const double value =
            kdloss::kd_loss_grad_hess<T>(student.const_view(), teacher.const_view(), labels, grad.view(),
                                         hess.view(), batch.options(), loss.data());
        CHECK_AT(check::same_bits(value, expected.value), name, " layout ", i);
        CHECK_AT(check::same_bits(loss, expected.loss), name, " layout ", i);
        CHECK_AT(check::same_bits(grad.values(), expected.grad), name, " layout ", i);
        CHECK_AT(check::same_bits(hess.values(), expected.hess), name, " layout ", i);
        CHECK_AT(grad.filling_is_whole() && hess.filling_is_whole(), name, " layout ", i);

        // The gradient in the student's place.
        Placed<T> own(layout(0), batch.student, batch.rows, batch.classes);
        kdloss::kd_loss_grad_hess<T>(own.const_view(), teacher.const_view(), labels, own.view(), hess.view(),
                                     batch.options(), loss.data());
        CHECK_AT(check::same_bits(own.values(), expected.grad), name, " layout ", i, " in place");
        CHECK_AT(check::same_bits(hess.values(), expected.hess), name, " layout ", i, " in place");
        CHECK_AT(check::same_bits(loss, expected.loss), name, " layout ", i, " in place");
      }
    });
}

// ---- The hard loss alone
KD_CASE_EACH_TYPE(options.cross_entropy_is_the_loss_at_alpha_one) {
  for_full_batches<T>(35, [](FullBatch<T> batch, const std::string& name) {
    const unsigned uses = batch.soft() ? kAll : kAll & ~unsigned(kSoftLabels);
    batch = full_batch<T>(35, batch.classes, uses & ~unsigned(kUnlabelledRows));
    batch.alphas.clear(), batch.taus.clear();
    batch.alpha = 1;
    std::vector<T> expected(batch.labels.size()), found(expected);
    const double value = kdloss::kd_loss_batch<T>(batch.student_view(), batch.teacher_view(),
                                                  batch.target_view(), batch.options(), expected.data());
    batch.alphas.assign(35, -3), batch.taus.assign(35, -3), batch.alpha = batch.tau = -3;  // not used
    const double alone = kdloss::cross_entropy_hard<T>(batch.student_view(), batch.target_view(),
                                                       batch.options(), found.data());
    CHECK_AT(check::same_bits(found, expected) && check::same_bits(alone, value), name);
  });
}

// A row of zeros is unlabelled, which the hard loss alone refuses as it refuses -1.
KD_CASE_EACH_TYPE(options.cross_entropy_refuses_a_row_of_zeros) {
  for (std::int64_t classes : {4, 150}) {
    FullBatch<T> batch = full_batch<T>(4, classes, kSoftLabels);
    std::fill(&batch.probabilities[batch.at(2 * classes)], &batch.probabilities[batch.at(3 * classes)], T(0));
    bool refused = false;
    try {
      kdloss::cross_entropy_hard<T>(batch.student_view(), batch.target_view(), batch.options());
    } catch (const std::invalid_argument& e) {
      refused = std::string(e.what()).rfind("labels[2]", 0) == 0;
    }
    CHECK_AT(refused, classes, " classes");
  }
}

// A class that a hard-only row masks does not affect its neighbours, nor they it.
KD_CASE_EACH_TYPE(options.masked_classes_beside_rows_of_other_parts) {
  constexpr T kMasked = -std::numeric_limits<T>::infinity();
  for (std::int64_t classes : {4, 17, 150}) {
    FullBatch<T> batch = full_batch<T>(16, classes, 0);
    for (std::int64_t i = 0; i < batch.rows; ++i) {
      batch.alphas.push_back(i % 3 == 0 ? 1 : i % 3 == 1 ? 0 : 0.5);
      batch.labels[batch.at(i)] = 0;
      for (std::int64_t c = 1; c < classes; c += 2) batch.s(i, c) = batch.t(i, c) = kMasked;
    }
    batch.reduction = Reduction::kSum;
    const Outcome<T> all = outcome(batch);
    CHECK_AT(same_rows(run_blocks(batch, {1}), all), classes, " classes");
    for (T x : all.grad) CHECK_AT(std::isfinite(x), classes, " classes");
    for (T x : all.hess) CHECK_AT(std::isfinite(x), classes, " classes");
  }
}

// In one pass or two, the parts and the gradient are those of two calls.
KD_CASE_EACH_TYPE(options.parts_with_a_gradient) {
  for (std::int64_t classes : {4, 17, 150, 300}) {
    for (const double alpha : {0.0, 0.3, 1.0}) {
      FullBatch<T> batch = full_batch<T>(35, classes, 0);
      batch.alpha = alpha;
      const Outcome<T> apart = outcome(batch);
      std::vector<T> grad(apart.grad.size(), T(-7));
      const kdloss::Parts parts =
          kdloss::kd_loss_parts<T>(batch.student_view(), batch.teacher_view(), batch.target_view(),
                                   batch.options(), nullptr, nullptr, nullptr, {grad.data(), 35, classes});
      CHECK_AT(check::same_bits(grad, apart.grad), classes, " classes, alpha ", alpha);
      CHECK_AT(check::same_bits(parts.loss, apart.parts.loss), classes, " classes, alpha ", alpha);
      CHECK_AT(check::same_bits(parts.soft, apart.parts.soft), classes, " classes, alpha ", alpha);
    }
  }
}
