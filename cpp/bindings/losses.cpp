// The losses: kdloss._core's functions behind kdloss.losses.
#include "arguments.hpp"
#include "bindings.hpp"

namespace {

struct Arguments {
  py::array student;
  py::object teacher;  // an array, or None
  py::object labels;
  kdloss::Options options;

  Arguments(py::handle student_logits, py::handle teacher_logits, py::handle labels_, py::handle alpha,
            py::handle tau, py::handle reduction, py::handle ignore_index, py::handle num_threads)
      : student(as_floats(student_logits, "student_logits")), labels(as_labels(labels_)) {
    require_2d(student, "student_logits");
    teacher = py::none();
    if (!teacher_logits.is_none()) {
      const FloatType type = float_type(student);
      const py::array t = as_floats(teacher_logits, "teacher", &type);
      require_2d(t, "teacher");
      teacher = t;
    }
    options.alpha = as_number(alpha, "alpha");
    options.tau = as_number(tau, "tau");
    options.reduction = as_reduction(reduction);
    options.ignore_index = as_ignore_index(ignore_index);
    options.num_threads = as_num_threads(num_threads);
  }

  template <class T>
  kdloss::View<const T> teacher_view() const {
    // An array without rows may have no address, and must not look absent.
    if (teacher.is_none()) return {};
    static const T empty{};
    kdloss::View<const T> v = view<const T>(py::reinterpret_borrow<py::array>(teacher));
    if (v.data == nullptr) v.data = &empty;
    return v;
  }
};

template <class T>
py::array rows_of(const Arguments& a) {
  return py::array_t<T>(a.student.shape(0));
}
template <class T>
T* data(py::array& array) {
  return static_cast<T*>(array.mutable_data());
}

py::object kd_loss_batch(py::handle student, py::handle teacher, py::handle labels, py::handle alpha,
                         py::handle tau, py::handle reduction, py::handle ignore_index,
                         py::handle num_threads) {
  const Arguments a(student, teacher, labels, alpha, tau, reduction, ignore_index, num_threads);
  return with_float_type(a.student, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const bool rows = a.options.reduction == kdloss::Reduction::kNone;
    py::array row_losses = rows ? rows_of<T>(a) : py::array();
    T* const row_data = rows ? data<T>(row_losses) : nullptr;
    const auto s = view<const T>(a.student), t = a.teacher_view<T>();
    const kdloss::Labels y = labels_view(a.labels);
    const double loss = without_interpreter(
        a.student.size(), [&] { return kdloss::kd_loss_batch<T>(s, t, y, a.options, row_data); });
    if (rows) return std::move(row_losses);
    return py::float_(loss);
  });
}

py::object kd_loss_and_grad(py::handle student, py::handle teacher, py::handle labels, py::handle alpha,
                            py::handle tau, py::handle reduction, py::handle ignore_index,
                            py::handle num_threads, py::handle out) {
  const Arguments a(student, teacher, labels, alpha, tau, reduction, ignore_index, num_threads);
  py::array grad = output(out, a.student, {a.student, a.teacher, a.labels});
  return with_float_type(a.student, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const bool rows = a.options.reduction == kdloss::Reduction::kNone;
    py::array row_losses = rows ? rows_of<T>(a) : py::array();
    T* const row_data = rows ? data<T>(row_losses) : nullptr;
    const auto s = view<const T>(a.student), t = a.teacher_view<T>();
    const auto g = view<T>(grad);
    const kdloss::Labels y = labels_view(a.labels);
    const double loss = without_interpreter(
        a.student.size(), [&] { return kdloss::kd_loss_and_grad<T>(s, t, y, g, a.options, row_data); });
    if (rows) return py::make_tuple(std::move(row_losses), std::move(grad));
    return py::make_tuple(loss, std::move(grad));
  });
}

py::object kd_loss_parts(py::handle student, py::handle teacher, py::handle labels, py::handle alpha,
                         py::handle tau, py::handle reduction, py::handle ignore_index,
                         py::handle num_threads) {
  const Arguments a(student, teacher, labels, alpha, tau, reduction, ignore_index, num_threads);
  return with_float_type(a.student, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const bool rows = a.options.reduction == kdloss::Reduction::kNone;
    py::array loss = rows ? rows_of<T>(a) : py::array(), hard = rows ? rows_of<T>(a) : py::array(),
              soft = rows ? rows_of<T>(a) : py::array();
    T *const loss_data = rows ? data<T>(loss) : nullptr, *const hard_data = rows ? data<T>(hard) : nullptr,
             *const soft_data = rows ? data<T>(soft) : nullptr;
    const auto s = view<const T>(a.student), t = a.teacher_view<T>();
    const kdloss::Labels y = labels_view(a.labels);
    const kdloss::Parts parts = without_interpreter(a.student.size(), [&] {
      return kdloss::kd_loss_parts<T>(s, t, y, a.options, loss_data, hard_data, soft_data);
    });
    if (rows) return py::make_tuple(loss, hard, soft);
    return py::make_tuple(parts.loss, parts.hard, parts.soft);
  });
}

double kd_loss_single(py::handle student_logits, py::handle teacher_logits, std::int64_t label,
                      py::handle alpha_object, py::handle tau_object) {
  const py::array student = as_floats(student_logits, "student");
  const double alpha = as_number(alpha_object, "alpha"), tau = as_number(tau_object, "tau");
  return with_float_type(student, [&](auto zero) {
    using T = decltype(zero);
    const FloatType type = float_type(student);
    const py::object teacher = teacher_logits.is_none()
                                   ? py::object(py::none())
                                   : py::object(as_floats(teacher_logits, "teacher", &type));
    const auto contiguous = [](const py::object& row) { return py::array_t<T, py::array::c_style>(row); };
    const auto s = contiguous(student);
    if (teacher.is_none()) return kdloss::kd_loss_single<T>(s.data(), nullptr, s.size(), label, alpha, tau);
    return kdloss::kd_loss_single<T>(s.data(), contiguous(teacher).data(), s.size(), label, alpha, tau);
  });
}

py::object cross_entropy_hard(py::handle logits_object, py::handle labels_object, py::handle reduction,
                              py::handle ignore_index, py::handle num_threads) {
  const py::array logits = as_floats(logits_object, "logits");
  require_2d(logits, "logits");
  const py::object labels = as_labels(labels_object);
  kdloss::Options options;
  options.reduction = as_reduction(reduction);
  options.ignore_index = as_ignore_index(ignore_index);
  options.num_threads = as_num_threads(num_threads);
  return with_float_type(logits, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const bool rows = options.reduction == kdloss::Reduction::kNone;
    py::array row_losses = rows ? py::array(py::array_t<T>(logits.shape(0))) : py::array();
    T* const row_data = rows ? data<T>(row_losses) : nullptr;
    const auto s = view<const T>(logits);
    const kdloss::Labels y = labels_view(labels);
    const double loss = without_interpreter(
        logits.size(), [&] { return kdloss::cross_entropy_hard<T>(s, y, options, row_data); });
    if (rows) return std::move(row_losses);
    return py::float_(loss);
  });
}

py::object kl_divergence(py::handle q_object, py::handle p_object, py::handle reduction_object) {
  const py::array q = as_floats(q_object, "q");
  const FloatType type = float_type(q);
  const py::array p = as_floats(p_object, "p", &type);
  const kdloss::Reduction reduction = as_reduction(reduction_object);
  require_2d(q, "q");
  require_2d(p, "p");
  return with_float_type(q, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const bool rows = reduction == kdloss::Reduction::kNone;
    py::array divergences = rows ? py::array(py::array_t<T>(q.shape(0))) : py::array();
    T* const row_data = rows ? data<T>(divergences) : nullptr;
    const auto q_view = view<const T>(q), p_view = view<const T>(p);
    const double kl = without_interpreter(
        q.size(), [&] { return kdloss::kl_divergence<T>(q_view, p_view, reduction, row_data); });
    if (rows) return std::move(divergences);
    return py::float_(kl);
  });
}

}  // namespace

void register_losses(py::module_& module) {
  module.def("kd_loss_batch", kd_loss_batch);
  module.def("kd_loss_and_grad", kd_loss_and_grad);
  module.def("kd_loss_parts", kd_loss_parts);
  module.def("kd_loss_single", kd_loss_single);
  module.def("cross_entropy_hard", cross_entropy_hard);
  module.def("kl_divergence", kl_divergence);
}
