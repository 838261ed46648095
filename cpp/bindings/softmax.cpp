// softmax and its logarithms: kdloss._core's functions behind kdloss.softmax.
#include "arguments.hpp"
#include "bindings.hpp"

namespace {

enum class Kind { kSoftmax, kLogSoftmax };

template <Kind kind>
py::array softmax(py::handle logits_object, py::handle tau_object, py::handle out_object) {
  const py::array logits = as_floats(logits_object, "logits");
  const double tau = as_number(tau_object, "tau");
  require_2d(logits, "logits");
  py::array out = output(out_object, "out", logits, true, {logits});
  with_float_type(logits, [&](auto element) {
    using T = decltype(element);
    const auto from = view<const T>(logits);
    const auto to = view<T>(out);
    without_interpreter(logits.size(), [&] {
      if constexpr (kind == Kind::kSoftmax)
        kdloss::softmax_temp<T>(from, tau, to);
      else
        kdloss::log_softmax_temp<T>(from, tau, to);
    });
  });
  return out;
}

py::array log_sum_exp(py::handle logits_object, py::handle tau_object) {
  const py::array logits = as_floats(logits_object, "logits");
  const double tau = as_number(tau_object, "tau");
  require_2d(logits, "logits");
  return with_float_type(logits, [&](auto element) -> py::array {
    using T = decltype(element);
    py::array_t<T> out(logits.shape()[0]);
    const auto from = view<const T>(logits);
    T* const to = out.mutable_data();
    without_interpreter(logits.size(), [&] { kdloss::log_sum_exp<T>(from, tau, to); });
    return std::move(out);
  });
}

}  // namespace

void register_softmax(py::module_& module) {
  module.def("softmax_temp", softmax<Kind::kSoftmax>);
  module.def("log_softmax_temp", softmax<Kind::kLogSoftmax>);
  module.def("log_sum_exp", log_sum_exp);
}
