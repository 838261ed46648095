// From Python arguments to views, without a copy wherever the array allows it.
#pragma once

#include <pybind11/numpy.h>

#include <kdloss/kdloss.hpp>

namespace py = pybind11;

// The float types that the core reads in place.
enum class FloatType { kFloat, kDouble };

// An array of logits or probabilities that may be read in place: float32 or float64, native, aligned.
// Anything else goes through kdloss._convert, which says what it cannot take. wanted, if given, is the type
// of the other operand.
py::array as_floats(py::handle object, const char* name, const FloatType* wanted = nullptr);
FloatType float_type(const py::array& array);

// Calls f(T{}) with the array's type.
template <class F>
auto with_float_type(const py::array& array, F&& f) {
  return float_type(array) == FloatType::kFloat ? f(float{}) : f(double{});
}

void require_2d(const py::array& array, const char* name);
template <class T>
kdloss::View<T> view(const py::array& array) {
  const auto size = static_cast<py::ssize_t>(sizeof(T));
  return {static_cast<T*>(const_cast<void*>(array.data())), array.shape(0), array.shape(1),
          array.strides(0) / size, array.strides(1) / size};
}

// Labels as int64, in place where they are; None is absent.
py::object as_labels(py::handle object);
kdloss::Labels labels_view(const py::object& labels);

double as_number(py::handle object, const char* name);
kdloss::Reduction as_reduction(py::handle object);
int as_num_threads(py::handle object);
std::int64_t as_ignore_index(py::handle object);

// A new array of the shape and layout of logits, or out once it is found fit: same shape and type, writeable,
// no overlap with itself nor with inputs; overlap with the first of these is allowed where it is the very
// same array.
py::array output(py::handle out, const py::array& logits, std::initializer_list<py::handle> inputs);

// The interpreter is let go for work of more than this many elements; less is done before another thread
// could start.
constexpr py::ssize_t kKeepInterpreter = 4096;
template <class F>
auto without_interpreter(py::ssize_t elements, F&& f) {
  if (elements <= kKeepInterpreter) return f();
  py::gil_scoped_release release;
  return f();
}
