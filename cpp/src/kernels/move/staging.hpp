// The caller's arrays, some rows at a time, as the loops want them: where they lie, or in copies.
//
// Rows that go into lanes may lie at any distances, one row at a time needs its classes side by side, and
// both need the type that is computed in. What is not like that is copied on its way in, and back on its way
// out.
#pragma once

#include "convert.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// Rows [first, first + count) of a call's arrays: row i of each is the call's row first + i.
template <class T>
struct Chunk {
  std::int64_t first = 0, count = 0;
  Matrix<const T> student, teacher, soft_labels;
  Matrix<T> grad, hess;

  // How many of its rows, from row i, are in one tile.
  int rows_of_tile(std::int64_t i) const {
    constexpr std::int64_t n = Lanes<T>::kCount;
    return static_cast<int>(count - i < n ? count - i : n);
  }
};

// A copy in columns has at most so many rows, and its columns lie so far apart: no whole number of pages.
constexpr std::int64_t kColumnRows = kPackedRows;
template <class T>
constexpr std::int64_t kColumnStride = kColumnRows + Lanes<T>::kCount;

// count rows of every class, between arrays where rows lie side by side.
template <class T>
__attribute__((noinline)) void copy_columns(Matrix<const T> from, Matrix<T> to, std::int64_t count,
                                            std::int64_t classes) {
  constexpr std::int64_t n = Lanes<T>::kCount, kAhead = 8;
  count = count < kColumnRows ? count : kColumnRows;  // which the compiler unrolls the loops for
  for (std::int64_t c = 0; c < classes; ++c) {
    const T* const in = at(from, 0, c);
    T* const out = at(to, 0, c);
    for (std::int64_t r = 0; r < count; r += n)
      prefetch(in, kAhead * from.class_stride + r), prefetch<true>(out, kAhead * to.class_stride + r);
    std::int64_t r = 0;
    for (; r + n <= count; r += n) store(out + r, load(in + r));
    for (; r < count; ++r) out[r] = in[r];
  }
}

template <class T>
class Staging {
 public:
  Staging(const Arrays& arrays, bool in_lanes)
      : arrays_(arrays),
        in_lanes_(in_lanes),
        student_(place_of(arrays.student)),
        teacher_(place_of(arrays.teacher)),
        soft_labels_(place_of(arrays.soft_labels)),
        grad_(place_of(arrays.grad, student_)),
        hess_(place_of(arrays.hess)) {}

  // Elements of memory that the copies take.
  std::int64_t size() const { return copies_ * copy_size(); }

  // Calls body(chunk) for all rows in [begin, end).
  template <class Body>
  void for_chunks(std::int64_t begin, std::int64_t end, T* memory, Body&& body) const {
    for (std::int64_t first = begin, count; first < end; first += count) {
      count = rows_from(first, end);
      const Chunk<T> chunk{first,
                           count,
                           read(arrays_.student, student_, first, count, memory),
                           read(arrays_.teacher, teacher_, first, count, memory),
                           read(arrays_.soft_labels, soft_labels_, first, count, memory),
                           to_write(arrays_.grad, grad_, first, memory),
                           to_write(arrays_.hess, hess_, first, memory)};
      body(chunk);
      write(chunk.grad, grad_, first, count, arrays_.grad);
      write(chunk.hess, hess_, first, count, arrays_.hess);
    }
  }

 private:
  enum Form { kInPlace, kRows, kColumns };  // in a copy, rows or columns lie side by side
  struct Place {
    Form form;
    std::int64_t copy;  // which one
  };

  template <class V>
  Form form_of(const V& v) const {
    if (v.type != kScalar<T>) return kRows;
    if (!in_lanes_) return v.class_stride == 1 ? kInPlace : kRows;
    // Classes that lie whole pages apart share a few sets of L1 and L2. If they are more than a few, their
    // lines are evicted before the next tile reads the rest of them.
    constexpr std::int64_t kPage = 4096 / sizeof(T), kFew = 24;
    const bool in_pages = v.row_stride == 1 && v.class_stride % kPage == 0 && arrays_.classes > kFew;
    return in_pages ? kColumns : kInPlace;
  }
  // Each copied array has a place of its own, except the gradient: it is written over the student's copy, if
  // there is one. Both have the same type, and so their copies have the same form.
  template <class V>
  Place place_of(const V& v, Place shared = {kInPlace, 0}) {
    const Form form = v.data == nullptr ? kInPlace : form_of(v);
    if (form == kInPlace) return {form, 0};
    columns_ |= form == kColumns;
    together_ |= in_lanes_ || v.class_stride != 1;  // a cache line holds several rows of a class
    return {form, shared.form == kInPlace ? copies_++ : shared.copy};
  }

  // Rows of a chunk that is copied, at the most.
  std::int64_t most_rows() const {
    const std::int64_t packed = pack_rows_at_once<T>(arrays_.classes) + kFewRows - 1;
    const std::int64_t most = in_lanes_ ? kColumnRows : (together_ ? packed : 1);
    return arrays_.rows < most ? arrays_.rows : most;
  }
  std::int64_t copy_size() const {
    return (columns_ ? kColumnStride<T> : most_rows()) * packed_stride<T>(arrays_.classes);
  }
  // How many of the rows [first, end) are a chunk.
  std::int64_t rows_from(std::int64_t first, std::int64_t end) const {
    const std::int64_t left = end - first;
    if (copies_ == 0) return left;
    if (in_lanes_ || !together_) return left < most_rows() ? left : most_rows();
    const std::int64_t size = pack_rows_at_once<T>(arrays_.classes);
    const std::int64_t count = size - (first + rows_missing<T>(arrays_.student)) % size;
    return left < count + kFewRows ? left : count;
  }

  // The array's own rows from the given one, or its copy.
  template <class V>
  auto in_place(const V& v, std::int64_t first) const {
    auto m = typed<T>(v);
    if (m.data != nullptr) m.data = at(m, first);
    return m;
  }
  Matrix<T> copy(Place place, T* memory) const {
    T* const data = memory + place.copy * copy_size();
    if (place.form == kRows) return {data, packed_stride<T>(arrays_.classes), 1};
    return {data, 1, kColumnStride<T>};
  }
  Matrix<const T> read(const AnyView& from, Place place, std::int64_t first, std::int64_t count,
                       T* memory) const {
    if (place.form == kInPlace) return in_place(from, first);
    const Matrix<T> to = copy(place, memory);
    if (place.form == kRows)
      read_rows(from, first, count, arrays_.classes, to.data);
    else
      copy_columns<T>(in_place(from, first), to, count, arrays_.classes);
    return {to.data, to.row_stride, to.class_stride};
  }
  Matrix<T> to_write(const Output& to, Place place, std::int64_t first, T* memory) const {
    return place.form == kInPlace ? in_place(to, first) : copy(place, memory);
  }
  void write(const Matrix<T>& from, Place place, std::int64_t first, std::int64_t count,
             const Output& to) const {
    if (place.form == kRows) write_rows(from.data, first, count, arrays_.classes, to);
    if (place.form == kColumns)
      copy_columns<T>({from.data, 1, kColumnStride<T>}, in_place(to, first), count, arrays_.classes);
  }

  const Arrays& arrays_;
  const bool in_lanes_;
  std::int64_t copies_ = 0;
  bool columns_ = false, together_ = false;
  const Place student_, teacher_, soft_labels_, grad_, hess_;
};

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
