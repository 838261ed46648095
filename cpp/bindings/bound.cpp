// kdloss._core.Bound: a function of Python whose keywords are bound here, as its own frame would bind them.
// The frame costs a fifth of the smallest loss.
#include <pybind11/pybind11.h>
#include <structmember.h>

#include <algorithm>
#include <cstddef>

#include "bindings.hpp"
#include "fast_call.hpp"

namespace {

constexpr Py_ssize_t kMostParameters = 16;

// Made once for each function, and never destroyed. The parameters without a default come first, by position;
// the others have one, and a keyword.
struct Bound {
  PyObject base;
  vectorcallfunc vectorcall;
  PyObject* attributes;  // __dict__
  PyObject* function;
  FastFunction core;
  Py_ssize_t positional, count;
  PyObject *names[kMostParameters], *defaults[kMostParameters];
};

// Keywords in source code are interned, as the names are. All that is not what most calls are, errors among
// it, is left to the function itself.
PyObject* call(PyObject* self, Given given, std::size_t flagged_count, PyObject* keywords) {
  const Bound& bound = *reinterpret_cast<const Bound*>(self);
  const Py_ssize_t count = PyVectorcall_NARGS(flagged_count);
  const Py_ssize_t keyword_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  bool binds = count == bound.positional;
  PyObject* arguments[kMostParameters];
  if (binds) {
    std::copy(given, given + count, arguments);
    std::copy(bound.defaults + count, bound.defaults + bound.count, arguments + count);
  }
  for (Py_ssize_t i = 0; binds && i < keyword_count; ++i) {
    const auto end = bound.names + bound.count;
    const auto name = std::find(bound.names + count, end, PyTuple_GET_ITEM(keywords, i));
    binds = name != end;
    if (binds) arguments[name - bound.names] = given[count + i];
  }
  return binds ? bound.core(nullptr, arguments, bound.count)
               : PyObject_Vectorcall(bound.function, given, flagged_count, keywords);
}

// Bound(function, core): core takes the function's parameters by position, in their order.
PyObject* make(PyTypeObject* type, PyObject* arguments, PyObject*) {
  try {
    const auto given = py::reinterpret_borrow<py::tuple>(arguments);
    const py::object function = given[0], core = given[1], code = function.attr("__code__");
    const py::tuple names = code.attr("co_varnames");
    const py::dict defaults = function.attr("__kwdefaults__");
    auto made = py::reinterpret_steal<py::object>(type->tp_alloc(type, 0));
    if (!made) throw py::error_already_set();
    auto& bound = *reinterpret_cast<Bound*>(made.ptr());
    bound.vectorcall = call;
    const PyCFunction of_core = PyCFunction_GetFunction(core.ptr());
    if (of_core == nullptr) throw py::error_already_set();
    bound.core = reinterpret_cast<FastFunction>(reinterpret_cast<void (*)()>(of_core));
    bound.positional = py::cast<Py_ssize_t>(code.attr("co_argcount"));
    bound.count = bound.positional + py::cast<Py_ssize_t>(code.attr("co_kwonlyargcount"));
    if (bound.count > kMostParameters) throw py::value_error("too many parameters");
    for (Py_ssize_t i = 0; i < bound.count; ++i) {
      const py::object name = names[static_cast<std::size_t>(i)];
      bound.names[i] = py::object(name).release().ptr();
      if (i >= bound.positional) bound.defaults[i] = py::object(defaults[name]).release().ptr();
    }
    bound.function = py::object(function).release().ptr();
    return made.release().ptr();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

// Where pickle finds it again.
PyObject* reduce(PyObject* self, PyObject*) { return PyObject_GetAttrString(self, "__qualname__"); }
PyObject* represent(PyObject* self) { return PyObject_Repr(reinterpret_cast<Bound*>(self)->function); }
// As functions do; it makes this one a routine for inspect and help().
PyObject* as_method(PyObject* self, PyObject* instance, PyObject*) {
  if (instance == nullptr || instance == Py_None) return Py_NewRef(self);
  return PyMethod_New(self, instance);
}

PyMemberDef members[] = {{"__dictoffset__", T_PYSSIZET, offsetof(Bound, attributes), READONLY, nullptr},
                         {"__vectorcalloffset__", T_PYSSIZET, offsetof(Bound, vectorcall), READONLY, nullptr},
                         {nullptr, 0, 0, 0, nullptr}};
PyMethodDef methods[] = {{"__reduce__", reduce, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
PyGetSetDef attributes[] = {{"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, nullptr, nullptr},
                            {nullptr, nullptr, nullptr, nullptr, nullptr}};
template <class T>
void* slot(T* x) {
  return reinterpret_cast<void*>(x);
}
PyType_Slot slots[] = {{Py_tp_new, slot(make)},       {Py_tp_call, slot(PyVectorcall_Call)},
                       {Py_tp_repr, slot(represent)}, {Py_tp_descr_get, slot(as_method)},
                       {Py_tp_members, members},      {Py_tp_methods, methods},
                       {Py_tp_getset, attributes},    {0, nullptr}};
PyType_Spec spec{"kdloss._core.Bound", sizeof(Bound), 0,
                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE, slots};

}  // namespace

void register_bound(py::module_& module) {
  auto type = py::reinterpret_steal<py::object>(PyType_FromSpec(&spec));
  if (!type) throw py::error_already_set();
  module.attr("Bound") = type;
}
