// What a kernel is given and which kernels there are: the border between the batch and the instruction sets.
#pragma once

#include <cstdint>

#include "kdloss/options.hpp"
#include "kdloss/views.hpp"

namespace kdloss {

// A 2-D array whose elements may lie at any distance; strides count elements.
template <class T>
struct Matrix {
  T* data = nullptr;
  std::int64_t row_stride = 0, class_stride = 0;
};
// Its element (r, c). Functions here are static: the linker must not merge copies that were compiled for
// different instruction sets.
template <class T>
static inline T* at(const Matrix<T>& m, std::int64_t r, std::int64_t c = 0) {
  return m.data + r * m.row_stride + c * m.class_stride;
}

// Rows whose classes lie apart are packed together, at most kPackedRows + kFewRows - 1 at a time.
constexpr std::int64_t kPackedRows = 128, kFewRows = 16;

constexpr std::int64_t kBeyondCaches = 1 << 20;  // elements of an array that no cache is expected to hold

// How many elements lie before p in its cache line.
template <class T>
static std::int64_t line_offset(const T* p) {
  return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p) % 64 / sizeof(T));
}

// How far from 1 the sum of a row of probabilities may be.
constexpr double kProbabilityTolerance = 1e-3;

// Runs task(context, begin, end, thread) for ranges that make up [0, count), in any order, on several
// threads.
using Task = void (*)(void* context, std::int64_t begin, std::int64_t end, int thread);
using Runner = void (*)(std::int64_t count, int threads, Task task, void* context);

// Sums over some rows, times their weights; all but the first only where both parts are asked for.
struct RowSums {
  double loss = 0, hard = 0, soft = 0;
  double labelled = 0;  // the weights of the rows that have a hard part
};

// An array to write to, in the type of its elements.
struct Output {
  void* data = nullptr;
  Scalar type = Scalar::kFloat32;
  std::int64_t row_stride = 0, class_stride = 0;
};

// What a call reads and writes, (rows, classes); each may be absent (null). Softmax calls its logits the
// student, and what it writes the gradient.
struct Arrays {
  AnyView student, teacher, soft_labels;
  Output grad, hess;
  std::int64_t rows = 0, classes = 0;
};

// One call of the loss: its arrays and options, of which beta is neither 0 nor 1 here. T is the type that is
// computed in.
template <class T>
struct KdCall : Arrays, Options {
  Labels labels;
  bool all_have_class = false;            // what the checks have seen: each row has a class index
  bool weights_fit = true;                // class weights are 0, or far inside T's range
  double grad_scale = 1, hess_scale = 1;  // 1 / the mean's divisor; twice that for kBound
  bool both_parts = false;                // hard and soft whatever alpha is
  T *loss = nullptr, *hard = nullptr, *soft = nullptr;  // (rows,)
  RowSums* sums = nullptr;         // one for every rows_per_sum rows, so that their order never changes
  Runner split_columns = nullptr;  // spreads the columns of one row over threads; null: does not
  int threads = 1;
};

// Where rows lie side by side, how many rows before the first would share its cache line. Large calls cut
// their ranges of rows at cache lines.
template <class T>
static std::int64_t rows_missing(const AnyView& v) {
  if (v.row_stride != 1 || v.type != kScalar<T> || v.rows * v.classes < kBeyondCaches) return 0;
  return line_offset(static_cast<const T*>(v.data));
}

// A call of softmax, or of its logarithm; row_out receives log-sum-exp (not beside softmax).
template <class T>
struct SoftmaxCall : Arrays {
  bool log = false;
  T* row_out = nullptr;
  double tau = 1;
};

// Each works on rows [begin, end) of its call, with a scratch of as many elements as kd_scratch or
// softmax_scratch returns, aligned to 64 bytes. A row's result never depends on where the rows were cut.

template <class T>
struct KernelsFor {
  void (*kd)(const KdCall<T>&, std::int64_t begin, std::int64_t end, T* scratch);
  std::int64_t (*kd_scratch)(const KdCall<T>&);
  std::int64_t (*rows_per_sum)(std::int64_t classes);  // of KdCall::sums; ranges begin at a multiple of it
  // The first of rows [begin, end) that counts and whose soft labels are no probabilities, or -1.
  std::int64_t (*bad_probabilities)(const KdCall<T>&, std::int64_t begin, std::int64_t end, T* scratch);
  void (*softmax)(const SoftmaxCall<T>&, std::int64_t begin, std::int64_t end, T* scratch);
  std::int64_t (*softmax_scratch)(const SoftmaxCall<T>&);
};

struct Kernels {
  KernelsFor<float> for_float;
  KernelsFor<double> for_double;
  bool (*are_classes)(const Labels&, std::int64_t classes);  // whether all labels are class indices
  template <class T>
  const KernelsFor<T>& of() const {
    if constexpr (sizeof(T) == sizeof(float))
      return for_float;
    else
      return for_double;
  }
};

}  // namespace kdloss
