// The extension module kdloss._jax: the loss with its gradient as a custom call of XLA. Optional: its headers
// come with jaxlib. Its user is kdloss.jax.
#include <pybind11/pybind11.h>
#include <xla/ffi/api/ffi.h>

#include <cfenv>
#include <exception>
#include <kdloss/kdloss.hpp>
#include <vector>

namespace py = pybind11;
namespace ffi = xla::ffi;

namespace {

// What is absent has three axes, as nothing else has.
bool is_absent(const ffi::AnyBuffer& x) { return x.dimensions().size() == 3; }

template <class T>
const T* data_of(const ffi::AnyBuffer& x) {
  return static_cast<const T*>(x.untyped_data());
}

kdloss::AnyView logits(const ffi::AnyBuffer& x) {
  if (is_absent(x)) return {};
  const auto shape = x.dimensions();
  switch (x.element_type()) {
    case ffi::F16:
      return {data_of<kdloss::Float16>(x), shape[0], shape[1]};
    case ffi::BF16:
      return {data_of<kdloss::BFloat16>(x), shape[0], shape[1]};
    case ffi::F32:
      return {data_of<float>(x), shape[0], shape[1]};
    default:
      return {data_of<double>(x), shape[0], shape[1]};
  }
}

kdloss::Labels labels_of(const ffi::AnyBuffer& x) {
  if (x.element_type() == ffi::S32 && !is_absent(x)) return {data_of<std::int32_t>(x), x.dimensions()[0]};
  if (x.element_type() == ffi::S64 && !is_absent(x)) return {data_of<std::int64_t>(x), x.dimensions()[0]};
  return is_absent(x) ? kdloss::Labels() : kdloss::Labels(logits(x));
}

// An option that is an array: a number, or one for each row or class. JAX may have no numbers of 64 bits.
class Numbers {
 public:
  explicit Numbers(const ffi::AnyBuffer& x) : has_axes_(x.dimensions().size() > 0) {
    if (is_absent(x)) return;
    if (x.element_type() == ffi::F64) {
      data_ = data_of<double>(x);
    } else {
      copy_.assign(data_of<float>(x), data_of<float>(x) + x.element_count());
      data_ = copy_.data();
    }
  }
  const double* many() const { return has_axes_ ? data_ : nullptr; }
  double one_or(double otherwise) const { return data_ != nullptr && !has_axes_ ? *data_ : otherwise; }

 private:
  bool has_axes_;
  std::vector<double> copy_;
  const double* data_ = nullptr;
};

template <class T>
void run(const ffi::AnyBuffer& student, const ffi::AnyBuffer& teacher, const ffi::AnyBuffer& labels,
         const kdloss::Options& options, ffi::AnyBuffer& loss, ffi::AnyBuffer& hard, ffi::AnyBuffer& soft,
         ffi::AnyBuffer& gradient) {
  using Row = kdloss::RowLoss<T>;
  const auto shape = student.dimensions();
  const kdloss::View<const T> s(data_of<T>(student), shape[0], shape[1]);
  kdloss::View<T> grad;
  if (!is_absent(gradient)) grad = {static_cast<T*>(gradient.untyped_data()), shape[0], shape[1]};
  const bool by_row = options.reduction == kdloss::Reduction::kNone;
  const auto to = [](ffi::AnyBuffer& x) { return static_cast<Row*>(x.untyped_data()); };
  const auto rows = [&](ffi::AnyBuffer& x) { return by_row ? to(x) : nullptr; };
  if (!is_absent(hard)) {
    const kdloss::Parts parts = kdloss::kd_loss_parts<T>(s, logits(teacher), labels_of(labels), options,
                                                         rows(loss), rows(hard), rows(soft), grad);
    if (by_row) return;
    *to(loss) = static_cast<Row>(parts.loss);
    *to(hard) = static_cast<Row>(parts.hard);
    *to(soft) = static_cast<Row>(parts.soft);
    return;
  }
  const double mean =
      grad.data == nullptr
          ? kdloss::kd_loss_batch<T>(s, logits(teacher), labels_of(labels), options, rows(loss))
          : kdloss::kd_loss_and_grad<T>(s, logits(teacher), labels_of(labels), grad, options, rows(loss));
  if (!by_row) *to(loss) = static_cast<Row>(mean);
}

// XLA's threads take numbers below the smallest normal one for 0. The promise covers them.
class DefaultArithmetic {
 public:
  DefaultArithmetic() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultArithmetic() { std::fesetenv(&before_); }

 private:
  std::fenv_t before_;
};

ffi::Error kd_loss(ffi::AnyBuffer student, ffi::AnyBuffer teacher, ffi::AnyBuffer labels,
                   ffi::AnyBuffer alpha, ffi::AnyBuffer tau, ffi::AnyBuffer sample_weight,
                   ffi::AnyBuffer class_weight, ffi::AnyBuffer normalizer, ffi::Result<ffi::AnyBuffer> loss,
                   ffi::Result<ffi::AnyBuffer> hard, ffi::Result<ffi::AnyBuffer> soft,
                   ffi::Result<ffi::AnyBuffer> gradient, std::int64_t reduction, std::int64_t ignore_index,
                   double label_smoothing, std::int64_t num_threads, double alpha_number, double tau_number,
                   double normalizer_number, std::int64_t divergence, double beta) {
  const DefaultArithmetic with_subnormals;
  try {
    const Numbers alphas(alpha), taus(tau), weights(sample_weight), of_class(class_weight),
        divisor(normalizer);
    kdloss::Options options;
    options.alpha = alphas.one_or(alpha_number), options.alphas = alphas.many();
    options.tau = taus.one_or(tau_number), options.taus = taus.many();
    options.normalizer = divisor.one_or(normalizer_number);
    options.sample_weight = weights.many(), options.class_weight = of_class.many();
    options.reduction = static_cast<kdloss::Reduction>(reduction);
    options.divergence = static_cast<kdloss::Divergence>(divergence), options.beta = beta;
    options.ignore_index = ignore_index;
    options.label_smoothing = label_smoothing;
    options.num_threads = static_cast<int>(num_threads);
    const auto with = [&](auto element) {
      run<decltype(element)>(student, teacher, labels, options, *loss, *hard, *soft, *gradient);
    };
    switch (student.element_type()) {
      case ffi::F16:
        with(kdloss::Float16{});
        break;
      case ffi::BF16:
        with(kdloss::BFloat16{});
        break;
      case ffi::F32:
        with(float{});
        break;
      default:
        with(double{});
    }
    return ffi::Error::Success();
  } catch (const std::exception& e) {
    return ffi::Error::InvalidArgument(e.what());
  }
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(kd_loss_handler, kd_loss,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<std::int64_t>("reduction")
                                  .Attr<std::int64_t>("ignore_index")
                                  .Attr<double>("label_smoothing")
                                  .Attr<std::int64_t>("num_threads")
                                  .Attr<double>("alpha")
                                  .Attr<double>("tau")
                                  .Attr<double>("normalizer")
                                  .Attr<std::int64_t>("divergence")
                                  .Attr<double>("beta"));

}  // namespace

PYBIND11_MODULE(_jax, module, pybind11::mod_gil_not_used()) {
  module.doc() = "The loss as a custom call of XLA.";
  module.def("kd_loss", [] { return py::capsule(reinterpret_cast<void*>(kd_loss_handler)); });
}
