// Functions of handles as functions of Python, without pybind11's search among overloads and conversions,
// which would take as long as a small loss.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace py = pybind11;

// Python's error for the C++ exception that is being handled.
inline void set_python_error() {
  try {
    throw;
  } catch (py::error_already_set& e) {
    e.restore();
  } catch (const py::builtin_exception& e) {
    e.set_error();
  } catch (const std::invalid_argument& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
}

template <class Function>
struct Arity;
template <class... Handles>
struct Arity<py::object (*)(Handles...)> {
  static constexpr std::size_t value = sizeof...(Handles);
};

template <auto function, std::size_t... i>
PyObject* fast_call(PyObject* const* given, Py_ssize_t count, std::index_sequence<i...>) {
  if (count != sizeof...(i)) {
    PyErr_Format(PyExc_TypeError, "%zd arguments given, expected %zu", count, sizeof...(i));
    return nullptr;
  }
  try {
    return function(py::handle(given[i])...).release().ptr();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

// Defines a function of handles that returns an object; arguments go by position.
template <auto function>
void def_fast(py::module_& module, const char* name) {
  using Indices = std::make_index_sequence<Arity<decltype(function)>::value>;
  PyObject* (*const call)(PyObject*, PyObject* const*, Py_ssize_t) =
      [](PyObject*, PyObject* const* given, Py_ssize_t count) {
        return fast_call<function>(given, count, Indices());
      };
  static PyMethodDef definition{name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)),
                                METH_FASTCALL, nullptr};
  auto made = py::reinterpret_steal<py::object>(
      PyCFunction_NewEx(&definition, nullptr, module.attr("__name__").ptr()));
  if (!made) throw py::error_already_set();
  module.attr(name) = made;
}
