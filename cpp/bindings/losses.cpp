// The losses: kdloss._core's functions behind kdloss.losses.
#include <pybind11/gil_safe_call_once.h>

#include <optional>

#include "arguments.hpp"
#include "bindings.hpp"

namespace {

// The options that the losses share: a tuple of them, in the order of kdloss.losses.Options.
class GivenOptions {
 public:
  explicit GivenOptions(const py::tuple& given) : given_(given) {}
  py::handle next() {
    if (next_ == given_.size()) refuse();
    return PyTuple_GET_ITEM(given_.ptr(), static_cast<py::ssize_t>(next_++));
  }
  void end() const {
    if (next_ != given_.size()) refuse();
  }

 private:
  [[noreturn]] void refuse() const {
    throw py::type_error(std::to_string(given_.size()) +
                         " options given, expected those of kdloss.losses.Options");
  }
  const py::tuple& given_;
  std::size_t next_ = 0;
};

struct Arguments {
  py::array student;
  py::object teacher;  // an array, or None
  py::object labels;
  py::object alphas, taus, sample_weight, class_weight;  // arrays, or null
  kdloss::AnyView teacher_view;
  kdloss::Labels labels_view;
  kdloss::Options options;

  Arguments(py::handle student_, py::handle teacher_, py::handle labels_, const py::tuple& options_,
            const char* student_name = "student_logits")
      : student(as_floats(student_, student_name, Halves::kAccepted)), teacher(py::none()) {
    require_2d(
        student, student_name,
        teacher_.is_none() ? ", and labels to the same rows" : ", and teacher and labels to the same rows");
    if (!teacher_.is_none()) {
      const py::array t = as_floats(teacher_, "teacher", Halves::kAccepted);
      require_2d(t, "teacher");
      teacher = t, teacher_view = any_view(t);
    }
    labels = as_labels(labels_);
    labels_view = as_view(labels);
    const py::ssize_t rows = student.shape()[0], classes = student.shape()[1];
    GivenOptions given(options_);
    alphas = as_number_or_rows(given.next(), "alpha", rows, options.alpha);
    taus = as_number_or_rows(given.next(), "tau", rows, options.tau);
    options.reduction = as_reduction(given.next());
    options.ignore_index = as_ignore_index(given.next());
    sample_weight = as_weights(given.next(), "sample_weight", rows, "one weight for each row of logits");
    class_weight = as_weights(given.next(), "class_weight", classes, "one weight for each class");
    options.label_smoothing = as_number(given.next(), "label_smoothing");
    options.normalizer = as_normalizer(given.next());
    options.divergence = as_divergence(given.next());
    options.beta = as_number(given.next(), "beta");
    options.num_threads = as_num_threads(given.next());
    given.end();
    options.alphas = doubles(alphas), options.taus = doubles(taus);
    options.sample_weight = doubles(sample_weight), options.class_weight = doubles(class_weight);
  }

  bool wants_rows() const { return options.reduction == kdloss::Reduction::kNone; }
  // The array to write to, which shares no memory with what is read, nor with what else is written.
  py::array to_write(py::handle out, const char* name, bool may_be_student, py::handle other = {}) const {
    return output(out, name, student, may_be_student,
                  {student, teacher, labels, alphas, taus, sample_weight, class_weight, other});
  }
};

// Row results, where they are asked for: in the type that the rows are computed in.
template <class T>
struct RowResult {
  py::object array;
  kdloss::RowLoss<T>* data = nullptr;
  explicit RowResult(const Arguments& a) {
    if (!a.wants_rows()) return;
    py::array_t<kdloss::RowLoss<T>> rows(a.student.shape()[0]);
    data = rows.mutable_data();
    array = std::move(rows);
  }
  py::object or_number(double x) { return array ? std::move(array) : py::object(py::float_(x)); }
};

// The result of function(student, row losses), a call of the core.
template <class Function>
py::object compute(const Arguments& a, Function&& function) {
  return with_any_type(a.student, [&](auto element) {
    using T = decltype(element);
    RowResult<T> rows(a);
    const auto s = view<const T>(a.student);
    return rows.or_number(without_interpreter(a.student.size(), [&] { return function(s, rows.data); }));
  });
}

// One of the named tuples of kdloss.losses, made as tuple itself makes them.
enum Result { kKDResult, kKDParts, kKDGradHess };
template <Result which, class... Values>
py::object named_tuple(Values... values) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> type;
  type.call_once_and_store_result([] {
    constexpr const char* names[] = {"KDResult", "KDParts", "KDGradHess"};
    return py::object(py::module_::import("kdloss.losses").attr(names[which]));
  });
  auto* const made = reinterpret_cast<PyTypeObject*>(type.get_stored().ptr());
  auto result = py::reinterpret_steal<py::object>(made->tp_alloc(made, sizeof...(values)));
  if (!result) throw py::error_already_set();
  py::ssize_t i = 0;
  (PyTuple_SET_ITEM(result.ptr(), i++, values.release().ptr()), ...);
  return result;
}

// An array to write to, of the student's type.
template <class T>
kdloss::View<T> writable(const kdloss::View<const T>&, const py::array& array) {
  return view<T>(array);
}

py::object kd_loss_batch(py::handle student, py::handle teacher, py::handle labels,
                         const py::tuple& options) {
  const Arguments a(student, teacher, labels, options);
  return compute(a, [&](auto s, auto* rows) {
    return kdloss::kd_loss_batch(s, a.teacher_view, a.labels_view, a.options, rows);
  });
}

py::object kd_loss_and_grad(py::handle student, py::handle teacher, py::handle labels,
                            const py::tuple& options, py::handle out) {
  const Arguments a(student, teacher, labels, options);
  py::array grad = a.to_write(out, "out", true);
  py::object loss = compute(a, [&](auto s, auto* rows) {
    return kdloss::kd_loss_and_grad(s, a.teacher_view, a.labels_view, writable(s, grad), a.options, rows);
  });
  return named_tuple<kKDResult>(std::move(loss), std::move(grad));
}

py::object kd_loss_grad_hess(py::handle student, py::handle teacher, py::handle labels,
                             const py::tuple& options, bool bound, py::handle grad_out, py::handle hess_out) {
  Arguments a(student, teacher, labels, options);
  a.options.hessian = bound ? kdloss::Hessian::kBound : kdloss::Hessian::kExact;
  py::array grad = a.to_write(grad_out, "out[0]", true);
  py::array hess = a.to_write(hess_out, "out[1]", false, grad);
  py::object loss = compute(a, [&](auto s, auto* rows) {
    return kdloss::kd_loss_grad_hess(s, a.teacher_view, a.labels_view, writable(s, grad), writable(s, hess),
                                     a.options, rows);
  });
  return named_tuple<kKDGradHess>(std::move(loss), std::move(grad), std::move(hess));
}

py::object kd_loss_parts(py::handle student, py::handle teacher, py::handle labels, const py::tuple& options,
                         py::handle grad_out) {
  const Arguments a(student, teacher, labels, options);
  py::object grad = py::none();
  if (!grad_out.is_none()) grad = a.to_write(grad_out, "grad_out", true);
  return with_any_type(a.student, [&](auto element) -> py::object {
    using T = decltype(element);
    RowResult<T> loss(a), hard(a), soft(a);
    const auto s = view<const T>(a.student);
    const auto g = grad.is_none() ? kdloss::View<T>() : view<T>(py::reinterpret_borrow<py::array>(grad));
    const kdloss::Parts parts = without_interpreter(a.student.size(), [&] {
      return kdloss::kd_loss_parts<T>(s, a.teacher_view, a.labels_view, a.options, loss.data, hard.data,
                                      soft.data, g);
    });
    return named_tuple<kKDParts>(loss.or_number(parts.loss), hard.or_number(parts.hard),
                                 soft.or_number(parts.soft));
  });
}

// A label of None is absent.
double kd_loss_single(py::handle student_logits, py::handle teacher_logits, py::handle label_object,
                      py::handle alpha_object, py::handle tau_object, py::handle divergence_name,
                      py::handle beta_object) {
  const py::array student = as_floats(student_logits, "student");
  const double alpha = as_number(alpha_object, "alpha"), tau = as_number(tau_object, "tau");
  const kdloss::Divergence divergence = as_divergence(divergence_name);
  const double beta = as_number(beta_object, "beta");
  if (label_object.is_none() && alpha != 0)
    throw py::value_error("label is absent, expected one where alpha is not 0");
  const auto label = label_object.is_none() ? kdloss::kUnlabelled : py::cast<std::int64_t>(label_object);
  return with_float_type(student, [&](auto element) {
    using T = decltype(element);
    using Row = py::array_t<T, py::array::c_style>;
    const kdloss::Scalar type = scalar_type(student);
    const Row s(student);
    std::optional<Row> t;
    if (!teacher_logits.is_none()) t = as_floats(teacher_logits, "teacher", Halves::kConverted, &type);
    return kdloss::kd_loss_single<T>(s.data(), t ? t->data() : nullptr, s.size(), label, alpha, tau,
                                     divergence, beta);
  });
}

// As kd_loss_batch; the options of the soft loss are not used.
py::object cross_entropy_hard(py::handle logits, py::handle labels, const py::tuple& options) {
  const Arguments a(logits, py::none(), labels, options, "logits");
  return compute(
      a, [&](auto s, auto* rows) { return kdloss::cross_entropy_hard(s, a.labels_view, a.options, rows); });
}

py::object kl_divergence(py::handle q_object, py::handle p_object, py::handle reduction_object) {
  const py::array q = as_floats(q_object, "q");
  const kdloss::Scalar type = scalar_type(q);
  const py::array p = as_floats(p_object, "p", Halves::kConverted, &type);
  const kdloss::Reduction reduction = as_reduction(reduction_object);
  const bool one_row = q.ndim() == 1, wants_rows = reduction == kdloss::Reduction::kNone;
  if (!one_row) require_2d(q, "q"), require_2d(p, "p");
  return with_float_type(q, [&](auto element) -> py::object {
    using T = decltype(element);
    py::array_t<T> divergences(wants_rows ? (one_row ? 1 : q.shape()[0]) : 0);
    T* const row_data = wants_rows ? divergences.mutable_data() : nullptr;
    double kl = 0;
    if (one_row) {
      const py::array_t<T, py::array::c_style> q_row(q), p_row(p);
      kl = kdloss::kl_divergence_single<T>(q_row.data(), p_row.data(), q_row.size());
      if (wants_rows) *row_data = static_cast<T>(kl);
    } else {
      const auto q_view = view<const T>(q), p_view = view<const T>(p);
      kl = without_interpreter(q.size(),
                               [&] { return kdloss::kl_divergence<T>(q_view, p_view, reduction, row_data); });
    }
    if (wants_rows) return std::move(divergences);
    return py::float_(kl);
  });
}

}  // namespace

void register_losses(py::module_& module) {
  module.def("kd_loss_batch", kd_loss_batch);
  module.def("kd_loss_and_grad", kd_loss_and_grad);
  module.def("kd_loss_grad_hess", kd_loss_grad_hess);
  module.def("kd_loss_parts", kd_loss_parts);
  module.def("cross_entropy_hard", cross_entropy_hard);
  module.def("kd_loss_single", kd_loss_single);
  module.def("kl_divergence", kl_divergence);
}
