#include "arguments.hpp"

#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <string>
#include <utility>

namespace {

std::string text(py::handle object) { return py::cast<std::string>(py::str(object)); }
std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

py::object convert(const char* function) { return py::module_::import("kdloss._arrays").attr(function); }

bool is_ndarray(py::handle object) { return py::isinstance<py::array>(object); }

// An array of numpy.ndarray itself, or of a subclass without a mask, as memory maps are.
bool is_plain_ndarray(py::handle object) {
  if (!is_ndarray(object)) return false;
  static const PyTypeObject* const ndarray = py::detail::npy_api::get().PyArray_Type_;
  if (Py_TYPE(object.ptr()) == ndarray) return true;
  return !py::hasattr(object, "mask");
}

// Whether all elements are aligned: the address and the strides are multiples of the size, a power of two.
bool is_aligned(const py::array& a, py::ssize_t size) {
  auto bits = reinterpret_cast<std::uintptr_t>(a.data());
  for (py::ssize_t i = 0; i < a.ndim(); ++i) bits |= static_cast<std::uintptr_t>(a.strides()[i]);
  return (bits & static_cast<std::uintptr_t>(size - 1)) == 0;
}

bool has_type(const py::array& a, int number) {
  const auto* proxy = py::detail::array_proxy(a.ptr());
  const auto* descr = py::detail::array_descriptor_proxy(proxy->descr);
  return descr->type_num == number && descr->byteorder != '>';
}

constexpr int kNumpyHalf = 23;

// ml_dtypes' bfloat16 has no fixed type number.
bool is_bfloat16(const py::array& a) {
  return a.itemsize() == 2 && !has_type(a, kNumpyHalf) && a.dtype().kind() == 'V' &&
         text(a.dtype()) == "bfloat16";
}

bool is_plain_float(const py::array& a, Halves halves) {
  if (has_type(a, py::detail::npy_api::NPY_FLOAT_)) return is_aligned(a, 4);
  if (has_type(a, py::detail::npy_api::NPY_DOUBLE_)) return is_aligned(a, 8);
  return halves == Halves::kAccepted && (has_type(a, kNumpyHalf) || is_bfloat16(a)) && is_aligned(a, 2);
}

bool is_vector(const py::array& a, py::ssize_t size) { return a.ndim() == 1 && is_aligned(a, size); }

// The size of an element, of an array that is read in place (faster than array.itemsize()).
std::intptr_t element_size(const py::array& a) {
  using py::detail::npy_api;
  if (has_type(a, npy_api::NPY_FLOAT_) || has_type(a, npy_api::NPY_INT_)) return 4;
  for (const int eight : {npy_api::NPY_DOUBLE_, npy_api::NPY_LONG_, npy_api::NPY_LONGLONG_})
    if (has_type(a, eight)) return 8;
  return 2;
}

// The memory that an array lies in.
struct Extent {
  std::intptr_t begin, end;
};
Extent extent(const py::array& a) {
  const auto first = reinterpret_cast<std::intptr_t>(a.data());
  Extent e{first, first + element_size(a)};
  for (py::ssize_t i = 0; i < a.ndim(); ++i) {
    if (a.shape()[i] == 0) return {e.begin, e.begin};
    const py::ssize_t reach = (a.shape()[i] - 1) * a.strides()[i];
    (reach < 0 ? e.begin : e.end) += reach;
  }
  return e;
}

bool same_memory(const py::array& a, const py::array& b) {
  return a.data() == b.data() && a.shape()[0] == b.shape()[0] && a.shape()[1] == b.shape()[1] &&
         a.strides()[0] == b.strides()[0] && a.strides()[1] == b.strides()[1];
}

// Two different elements at one address: i row_stride = j class_stride with 0 < |i| < rows and 0 < |j| <
// classes, or a stride of zero.
bool overlaps_itself(const py::array& a) {
  const py::ssize_t rows = a.shape()[0], classes = a.shape()[1];
  const py::ssize_t row = std::abs(a.strides()[0]), col = std::abs(a.strides()[1]);
  if (rows == 0 || classes == 0) return false;
  if ((row == 0 && rows > 1) || (col == 0 && classes > 1)) return true;
  if (row >= classes * col || col >= rows * row) return false;
  const py::ssize_t common = std::gcd(row, col);
  return col / common < rows && row / common < classes;
}

}  // namespace

py::array as_floats(py::handle object, const char* name, Halves halves, const kdloss::Scalar* wanted) {
  if (is_plain_ndarray(object)) {
    auto array = py::reinterpret_borrow<py::array>(object);
    if (is_plain_float(array, halves) && (wanted == nullptr || scalar_type(array) == *wanted)) return array;
  }
  const char* type = wanted == nullptr ? "" : (*wanted == kdloss::Scalar::kFloat32 ? "float32" : "float64");
  return py::cast<py::array>(convert("as_floats")(object, name, type, halves == Halves::kAccepted));
}

kdloss::Scalar scalar_type(const py::array& array) {
  if (has_type(array, py::detail::npy_api::NPY_FLOAT_)) return kdloss::Scalar::kFloat32;
  if (has_type(array, py::detail::npy_api::NPY_DOUBLE_)) return kdloss::Scalar::kFloat64;
  return has_type(array, kNumpyHalf) ? kdloss::Scalar::kFloat16 : kdloss::Scalar::kBFloat16;
}

kdloss::AnyView any_view(const py::array& array) {
  static const double empty = 0;
  return with_any_type(array, [&](auto element) {
    kdloss::AnyView v = view<const decltype(element)>(array);
    if (v.data == nullptr) v.data = &empty;
    return v;
  });
}

void require_2d(const py::array& array, const char* name, const char* also) {
  if (array.ndim() == 2) return;
  std::string message = std::string(name) + " has shape " + text(array.attr("shape")) +
                        ", expected logits of shape (rows, classes)";
  if (array.ndim() > 2)
    message += "; reshape it, with " + std::string(name) + ".reshape(-1, " +
               std::to_string(array.shape()[array.ndim() - 1]) + ")" + also;
  if (array.ndim() == 1) message += "; one row is " + std::string(name) + "[None, :]";
  throw py::value_error(message);
}

py::object as_labels(py::handle object) {
  if (object.is_none()) return py::none();
  if (is_plain_ndarray(object)) {
    auto array = py::reinterpret_borrow<py::array>(object);
    static_assert(sizeof(long) == 8 && sizeof(int) == 4, "the names that NumPy has for 64 and 32 bits");
    const bool longs = has_type(array, py::detail::npy_api::NPY_LONG_) ||
                       has_type(array, py::detail::npy_api::NPY_LONGLONG_);
    if (longs && is_vector(array, 8)) return std::move(array);
    if (has_type(array, py::detail::npy_api::NPY_INT_) && is_vector(array, 4)) return std::move(array);
    if (array.ndim() == 2 && is_plain_float(array, Halves::kConverted)) return std::move(array);
  }
  return convert("as_labels")(object);
}

kdloss::Labels as_view(const py::object& labels) {
  if (labels.is_none()) return {};
  const auto array = py::reinterpret_borrow<py::array>(labels);
  if (array.ndim() == 2) return kdloss::Labels(any_view(array));
  static const std::int64_t empty = 0;
  if (has_type(array, py::detail::npy_api::NPY_INT_))
    return {static_cast<const std::int32_t*>(array.data()), array.shape()[0], array.strides()[0] / 4};
  const auto* data = static_cast<const std::int64_t*>(array.data());
  return {data == nullptr ? &empty : data, array.shape()[0], array.strides()[0] / 8};
}

py::object as_number_or_rows(py::handle object, const char* name, py::ssize_t rows, double& number) {
  if (PyFloat_CheckExact(object.ptr())) {
    number = PyFloat_AS_DOUBLE(object.ptr());
    return {};
  }
  const bool many = is_ndarray(object) ? py::reinterpret_borrow<py::array>(object).ndim() > 0
                                       : !PyUnicode_Check(object.ptr()) && PyObject_Size(object.ptr()) >= 0;
  PyErr_Clear();  // a number has no size, nor has a tensor without axes
  if (!many) {
    number = as_number(object, name);
    return {};
  }
  return convert("as_vector")(object, name, rows, "a number or ", "one for each row of logits");
}

py::object as_weights(py::handle object, const char* name, py::ssize_t count, const char* each) {
  if (object.is_none()) return {};
  return convert("as_vector")(object, name, count, "", each);
}

double as_number(py::handle object, const char* name) {
  if (PyFloat_CheckExact(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  const double x = PyFloat_AsDouble(object.ptr());
  if (x == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + " is of type " + type_name(object) + ", expected a number");
  }
  return x;
}

double as_normalizer(py::handle object) {
  if (object.is_none()) return 0;
  const double x = as_number(object, "normalizer");
  if (x == 0) throw py::value_error("normalizer is 0, expected a finite number > 0 with a finite inverse");
  return x;
}

// One of the named choices.
template <class Value, std::size_t N>
Value one_of(py::handle object, const char* name, const std::pair<const char*, Value> (&choices)[N]) {
  std::string expected = ", expected ";
  for (std::size_t i = 0; i < N; ++i) {
    if (PyUnicode_Check(object.ptr()) &&
        PyUnicode_CompareWithASCIIString(object.ptr(), choices[i].first) == 0)
      return choices[i].second;
    expected += (i == 0 ? "'" : (i + 1 < N ? ", '" : " or '")) + std::string(choices[i].first) + "'";
  }
  if (PyUnicode_Check(object.ptr())) throw py::value_error(name + (" is '" + text(object) + "'") + expected);
  throw py::type_error(name + (" is of type " + type_name(object)) + expected);
}

kdloss::Reduction as_reduction(py::handle object) {
  using kdloss::Reduction;
  static constexpr std::pair<const char*, Reduction> kChoices[] = {
      {"mean", Reduction::kMean}, {"sum", Reduction::kSum}, {"none", Reduction::kNone}};
  return one_of(object, "reduction", kChoices);
}

kdloss::Divergence as_divergence(py::handle object) {
  using kdloss::Divergence;
  static constexpr std::pair<const char*, Divergence> kChoices[] = {{"kl", Divergence::kKL},
                                                                    {"reverse_kl", Divergence::kReverseKL},
                                                                    {"js", Divergence::kJS},
                                                                    {"tv", Divergence::kTV},
                                                                    {"mse", Divergence::kMSE}};
  return one_of(object, "divergence", kChoices);
}

int as_num_threads(py::handle object) {
  if (object.is_none()) return 0;
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {
    PyErr_Clear();
    throw py::type_error("num_threads is of type " + type_name(object) + ", expected a whole number or None");
  }
  const long n = PyLong_AsLong(index.ptr());
  if (n < 1 || n > 65536) {
    PyErr_Clear();
    throw py::value_error("num_threads is " + text(object) +
                          ", expected at least 1 (and at most 65536), or None");
  }
  return static_cast<int>(n);
}

std::int64_t as_ignore_index(py::handle object) {
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  const long long i = index ? PyLong_AsLongLong(index.ptr()) : 0;
  if (PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error("ignore_index is " + py::cast<std::string>(py::repr(object)) +
                         ", expected a whole number of 64 bits");
  }
  return i;
}

py::array output(py::handle out, const char* name, const py::array& logits, bool own,
                 std::initializer_list<py::handle> inputs) {
  if (out.is_none()) {
    const py::ssize_t rows = logits.shape()[0], classes = logits.shape()[1], size = logits.itemsize();
    const bool by_class = std::abs(logits.strides()[0]) < std::abs(logits.strides()[1]) && rows > 1;
    return by_class ? py::array(logits.dtype(), {rows, classes}, {size, rows * size})
                    : py::array(logits.dtype(), {rows, classes});
  }
  const auto refuse = [name](const std::string& what) { throw py::value_error(name + (" " + what)); };
  if (!is_plain_ndarray(out))
    throw py::type_error(std::string(name) + " is of type " + type_name(out) + ", expected a NumPy array");
  auto array = py::reinterpret_borrow<py::array>(out);
  if (array.ndim() != 2 || array.shape()[0] != logits.shape()[0] || array.shape()[1] != logits.shape()[1])
    refuse("has shape " + text(array.attr("shape")) + ", expected that of the logits, " +
           text(logits.attr("shape")));
  if (!is_plain_float(array, Halves::kAccepted) || scalar_type(array) != scalar_type(logits))
    refuse("has dtype " + text(array.dtype()) + ", expected " + text(logits.dtype()) +
           ", aligned and in native byte order");
  if (!array.writeable()) refuse("is read-only, expected a writeable array");
  if (overlaps_itself(array))
    refuse("has strides " + text(array.attr("strides")) +
           ", at which elements overlap, expected an array with an address for each element");
  const Extent mine = extent(array);
  for (const py::handle& handle : inputs) {
    if (!handle || !is_ndarray(handle)) continue;
    const auto input = py::reinterpret_borrow<py::array>(handle);
    const Extent theirs = extent(input);
    if (mine.end <= theirs.begin || theirs.end <= mine.begin) continue;
    if (own && handle.is(logits) && same_memory(array, input)) continue;
    if (py::cast<bool>(py::module_::import("numpy").attr("shares_memory")(array, input)))
      refuse(own ? "overlaps an input, expected memory of its own (or the very array of the logits)"
                 : "overlaps another array of the call, expected memory of its own");
  }
  return array;
}
