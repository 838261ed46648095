// Functions of Python without pybind11's search among overloads and conversions, which would take as long as
// a small loss.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <new>
#include <stdexcept>

namespace py = pybind11;

// A call's arguments, by position: borrowed.
using Given = PyObject* const*;
using FastFunction = PyObject* (*)(PyObject*, Given, Py_ssize_t);

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

template <auto function, int arguments>
PyObject* fast_call(PyObject*, Given given, Py_ssize_t count) {
  if (count != arguments) {
    PyErr_Format(PyExc_TypeError, "%zd arguments given, expected %d", count, arguments);
    return nullptr;
  }
  try {
    return function(given).release().ptr();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

// Defines py::object function(Given) as a function of so many arguments.
template <auto function, int arguments>
void def_fast(py::module_& module, const char* name) {
  constexpr FastFunction call = fast_call<function, arguments>;
  static PyMethodDef definition{name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)),
                                METH_FASTCALL, nullptr};
  auto made = py::reinterpret_steal<py::object>(
      PyCFunction_NewEx(&definition, nullptr, py::object(module.attr("__name__")).ptr()));
  if (!made) throw py::error_already_set();
  module.attr(name) = made;
}
