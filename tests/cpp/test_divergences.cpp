// Every divergence compared with its formula in long double, on difficult rows of every kind, in both
// layouts.
#include <stdexcept>

#include "compare.hpp"

namespace {

using kdloss::Divergence;

struct Measure {
  const char* name;
  Divergence divergence;
  double beta = 0.5;
};
const Measure kMeasures[] = {
    {"reverse_kl", Divergence::kReverseKL}, {"js", Divergence::kJS}, {"js 0.1", Divergence::kJS, 0.1},
    {"js 0.999", Divergence::kJS, 0.999},   {"tv", Divergence::kTV}, {"mse", Divergence::kMSE}};

// The values of one class; p - q and u = log(p / q) are accurate.
struct Class {
  Real p, q, u, difference;
};

std::vector<Class> classes_of(const std::vector<Real>& s, const std::vector<Real>& t, Real tau) {
  const Real ms = *std::max_element(s.begin(), s.end()), mt = *std::max_element(t.begin(), t.end());
  std::vector<Class> all;
  Real zs = 0, zt = 0, change = 0;
  for (std::size_t c = 0; c < s.size(); ++c) {
    const Real es = std::exp((s[c] - ms) / tau), et = std::exp((t[c] - mt) / tau),
               v = gap(s[c], t[c], ms, mt) / tau;
    all.push_back({es, et, v, 0});
    zs += es, zt += et, change += std::fabs(v) < 1 ? et * std::expm1(v) : es - et;
  }
  const Real log_ratio = std::fabs(change) < zt / 2 ? std::log1p(change / zt) : std::log(zs / zt);
  for (Class& x : all) {
    x.p /= zs, x.q /= zt, x.u -= log_ratio;
    x.difference = std::fabs(x.u) < 1 ? x.q * std::expm1(x.u) : x.p - x.q;
  }
  return all;
}

// exp(x) - 1 - x, times a probability, and given the exact probability * (exp(x) - 1).
Real remainder(Real probability, Real change, Real x) {
  return std::fabs(x) < 1 ? probability * expm1_remainder(x)
                          : change - (probability == 0 ? 0 : probability * x);
}
// log(m / own), where m = own + of_other (other - own); far from 0 where own is 0.
Real log_mixture(Real of_other, Real own, Real other, Real change) {
  if (own == 0) return 1;
  return std::fabs(change) < own ? std::log1p(of_other * change / own)
                                 : std::log((1 - of_other) + of_other * (other / own));
}
Real half_sign(Real x) { return x < 0 ? Real(-0.5) : (x > 0 ? Real(0.5) : 0); }

struct Soft {
  Real loss = 0;
  std::vector<Real> grad;
  bool is_decided = true;  // whether the sign of p - q is certain for all classes
};
Soft exact_soft(const std::vector<Real>& s, const std::vector<Real>& t, Real tau, const Measure& m) {
  Soft soft;
  if (m.divergence == Divergence::kMSE) {
    for (std::size_t c = 0; c < s.size(); ++c) {
      soft.loss += (s[c] - t[c]) * (s[c] - t[c]) / static_cast<Real>(s.size());
      soft.grad.push_back(2 * (s[c] - t[c]) / static_cast<Real>(s.size()));
    }
    return soft;
  }
  const std::vector<Class> all = classes_of(s, t, tau);
  const auto top = static_cast<std::size_t>(std::max_element(s.begin(), s.end()) - s.begin());
  const Real beta = m.beta;
  const Real m_top = beta * all[top].q + (1 - beta) * all[top].p;
  std::vector<Real> slopes;
  Real mean = 0;
  for (std::size_t c = 0; c < s.size(); ++c) {
    const Class& x = all[c];
    const Real step = gap(s[c], t[c], s[top], t[top]) / tau;
    Real f = 0;  // less that of the top class
    if (m.divergence == Divergence::kReverseKL) {
      soft.loss += remainder(x.p, -x.difference, -x.u);
      f = step;
    } else if (m.divergence == Divergence::kTV) {
      soft.loss += std::fabs(x.difference) / 2;
      f = half_sign(x.difference) - half_sign(all[top].difference);
      soft.is_decided &= x.u == 0 || std::fabs(x.u) > 64 * 0x1p-52L;
    } else {
      const Real a = log_mixture(1 - beta, x.q, x.p, x.difference),
                 b = log_mixture(beta, x.p, x.q, -x.difference);
      soft.loss += beta * remainder(x.q, (1 - beta) * x.difference, a) +
                   (1 - beta) * remainder(x.p, -beta * x.difference, b);
      const Real of_teacher = beta * all[top].q / m_top, p_over_m = all[top].p / m_top;
      const Real other = beta * p_over_m * (x.q / x.p);
      f = (beta - 1) * (std::fabs(step) < 1 ? std::log1p(of_teacher * std::expm1(-step))
                        : of_teacher < 0.5  ? std::log1p(other - of_teacher)
                                            : std::log((1 - beta) * p_over_m + other));
    }
    slopes.push_back(x.p < 1e-4000L ? 0 : x.p * f), mean += slopes.back();
  }
  soft.loss *= tau * tau;
  for (std::size_t c = 0; c < s.size(); ++c) soft.grad.push_back(tau * (slopes[c] - all[c].p * mean));
  return soft;
}

template <class T>
Result<T> run(const Batch<T>& batch, const Measure& m) {
  Result<T> r{std::vector<T>(batch.labels.size()), std::vector<T>(batch.student.size())};
  kdloss::Options options;
  options.alpha = 0, options.tau = batch.tau, options.reduction = kdloss::Reduction::kNone;
  options.divergence = m.divergence, options.beta = m.beta;
  kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                              {r.grad.data(), batch.rows, batch.classes}, options, r.loss.data());
  return r;
}

}  // namespace

KD_CASE_EACH_TYPE(divergences.against_the_formula) {
  for (const Measure& m : kMeasures) {
    check::Worst loss(std::string(m.name) + " loss", tolerance::kPromise<T>),
        grad(std::string(m.name) + " gradient", tolerance::kPromise<T>);
    for (const std::int64_t classes : {2, 7, 40, 256, 300, 2100})
      for (const double tau : {1.0, 4.0, 3.7}) {
        const Batch<T> batch = random_batch<T>(classes < 100 ? 60 : 20, classes, tau);
        const Result<T> found = run(batch, m);
        for (std::int64_t i = 0; i < batch.rows; ++i) {
          std::vector<Real> s, t;
          for (std::int64_t c = 0; c < classes; ++c)
            s.push_back(batch.student[static_cast<std::size_t>(i * classes + c)]),
                t.push_back(batch.teacher[static_cast<std::size_t>(i * classes + c)]);
          const Soft exact = exact_soft(s, t, tau, m);
          const auto row = static_cast<std::size_t>(i);
          CHECK_AT(found.loss[row] >= 0, m.name, " row ", i);
          loss.add(relative_error<T>(found.loss[row], exact.loss, exact.loss), classes, " row ", i);
          if (!exact.is_decided) continue;
          const Real most = largest_magnitude(exact.grad);
          for (std::size_t c = 0; c < exact.grad.size(); ++c)
            grad.add(relative_error<T>(found.grad[row * exact.grad.size() + c], exact.grad[c], most), classes,
                     " tau ", tau, " row ", i, " class ", c);
        }
      }
    CHECK_HOLDS(loss);
    CHECK_HOLDS(grad);
  }
}

KD_CASE_EACH_TYPE(divergences.equal_rows) {
  for (const Measure& m : kMeasures)
    for (const std::int64_t classes : {5, 400}) {
      Batch<T> batch = random_batch<T>(20, classes);
      batch.teacher = batch.student;
      const Result<T> found = run(batch, m);
      for (const T x : found.loss) CHECK_AT(x == 0, m.name);
      for (const T x : found.grad) CHECK_AT(x == 0, m.name);
    }
}

KD_CASE_EACH_TYPE(divergences.any_number_of_threads) {
  for (const Measure& m : kMeasures) {
    const Batch<T> batch = random_batch<T>(3, 70001);
    Result<T> alone{std::vector<T>(3), std::vector<T>(batch.student.size())}, together = alone;
    for (Result<T>* r : {&alone, &together}) {
      kdloss::Options options;
      options.divergence = m.divergence, options.num_threads = r == &alone ? 1 : 3;
      kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                                  {r->grad.data(), batch.rows, batch.classes}, options, r->loss.data());
    }
    CHECK_AT(check::same_bits(alone.loss, together.loss), m.name);
    CHECK_AT(check::same_bits(alone.grad, together.grad), m.name);
  }
}

KD_CASE(divergences.no_hessian_that_may_be_negative) {
  const Batch<double> batch = random_batch<double>(3, 5);
  std::vector<double> grad(15), hess(15);
  for (const Measure& m : kMeasures) {
    kdloss::Options options;
    options.divergence = m.divergence;
    bool refused = false;
    try {
      kdloss::kd_loss_grad_hess<double>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                                        {grad.data(), 3, 5}, {hess.data(), 3, 5}, options);
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    CHECK_AT(refused == (m.divergence != Divergence::kMSE), m.name);
  }
}
