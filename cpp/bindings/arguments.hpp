// From Python arguments to views, without a copy wherever the array allows it.
#pragma once

#include <pybind11/numpy.h>

#include <kdloss/kdloss.hpp>

namespace py = pybind11;

// An array of logits or probabilities that may be read in place: float32 or float64, and halves where they
// are accepted; native, aligned. Anything else goes through kdloss._arrays, which says what it cannot take.
// wanted, if given, is the type of the other operand.
enum class Halves { kConverted, kAccepted };
py::array as_floats(py::handle object, const char* name, Halves halves = Halves::kConverted,
                    const kdloss::Scalar* wanted = nullptr);
kdloss::Scalar scalar_type(const py::array& array);

// Calls f(T{}) with the array's type: float or double alone, or halves too.
template <class F>
auto with_float_type(const py::array& array, F&& f) {
  return scalar_type(array) == kdloss::Scalar::kFloat32 ? f(float{}) : f(double{});
}
template <class F>
auto with_any_type(const py::array& array, F&& f) {
  switch (scalar_type(array)) {
    case kdloss::Scalar::kFloat16:
      return f(kdloss::Float16{});
    case kdloss::Scalar::kBFloat16:
      return f(kdloss::BFloat16{});
    default:
      return with_float_type(array, f);
  }
}

// also: what else to reshape, for advice.
void require_2d(const py::array& array, const char* name, const char* also = "");
template <class T>
kdloss::View<T> view(const py::array& array) {
  const auto size = static_cast<py::ssize_t>(sizeof(T));
  return {static_cast<T*>(const_cast<void*>(array.data())), array.shape()[0], array.shape()[1],
          array.strides()[0] / size, array.strides()[1] / size};
}
// An array without rows may have a null address, which would mean that it is absent: it gets another.
kdloss::AnyView any_view(const py::array& array);

// Class indices as int64 or int32, or soft labels, in place where they are; None is absent.
py::object as_labels(py::handle object);
kdloss::Labels as_view(const py::object& labels);

// A number, which goes to `number`, or an array of one for each row, which is returned, as float64.
py::object as_number_or_rows(py::handle object, const char* name, py::ssize_t rows, double& number);
// Weights, one for each row or class as `each` says, as float64; None is absent.
py::object as_weights(py::handle object, const char* name, py::ssize_t count, const char* each);
inline const double* doubles(const py::object& array) {
  return array ? static_cast<const double*>(py::reinterpret_borrow<py::array>(array).data()) : nullptr;
}

double as_number(py::handle object, const char* name);
double as_normalizer(py::handle object);  // 0 for None
kdloss::Reduction as_reduction(py::handle object);
kdloss::Divergence as_divergence(py::handle object);
int as_num_threads(py::handle object);
std::int64_t as_ignore_index(py::handle object);

// A new array of the shape and layout of logits, or out once it is found fit: same shape and type, writeable,
// no overlap with itself nor with inputs. It may be the logits' own array, in that very layout, if own is
// set.
py::array output(py::handle out, const char* name, const py::array& logits, bool own,
                 std::initializer_list<py::handle> inputs);

// The GIL is released for more than this many elements; less work is done before another thread could start.
constexpr py::ssize_t kKeepInterpreter = 4096;
template <class F>
auto without_interpreter(py::ssize_t elements, F&& f) {
  if (elements <= kKeepInterpreter) return f();
  py::gil_scoped_release release;
  return f();
}
