// Arrays as the caller has them: where they lie and of what type they are. Nothing here owns memory.
#pragma once

#include <cstdint>
#include <type_traits>

namespace kdloss {

// Half-precision numbers, as the bits that hold them.
struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

enum class Scalar { kFloat16, kBFloat16, kFloat32, kFloat64 };
template <class T>
inline constexpr Scalar kScalar = std::is_same_v<T, Float16>    ? Scalar::kFloat16
                                  : std::is_same_v<T, BFloat16> ? Scalar::kBFloat16
                                  : std::is_same_v<T, float>    ? Scalar::kFloat32
                                                                : Scalar::kFloat64;
template <class T>
inline constexpr bool kIsScalar = std::is_same_v<T, double> || kScalar<T> != Scalar::kFloat64;

// A matrix of logits, (rows, classes), that lies anywhere; strides count elements, and may be zero or
// negative.
template <class T>
struct View {
  static_assert(kIsScalar<std::remove_const_t<T>>,
                "kdloss reads float, double, kdloss::Float16 and kdloss::BFloat16: convert to one of them");

  T* data = nullptr;
  std::int64_t rows = 0, classes = 0;
  std::int64_t row_stride = 0, class_stride = 1;

  View() = default;
  // One row after another, without gaps.
  View(T* data_, std::int64_t rows_, std::int64_t classes_) : View(data_, rows_, classes_, classes_, 1) {}
  View(T* data_, std::int64_t rows_, std::int64_t classes_, std::int64_t row_stride_,
       std::int64_t class_stride_)
      : data(data_), rows(rows_), classes(classes_), row_stride(row_stride_), class_stride(class_stride_) {}
  // What may be written may be read.
  template <class U, class = std::enable_if_t<std::is_same_v<const U, T> && !std::is_const_v<U>>>
  View(const View<U>& v) : View(v.data, v.rows, v.classes, v.row_stride, v.class_stride) {}
};

// The same for reading, of whichever of the four types.
struct AnyView {
  const void* data = nullptr;
  Scalar type = Scalar::kFloat32;
  std::int64_t rows = 0, classes = 0;
  std::int64_t row_stride = 0, class_stride = 1;

  AnyView() = default;
  template <class T>
  AnyView(View<const T> v)
      : data(v.data),
        type(kScalar<T>),
        rows(v.rows),
        classes(v.classes),
        row_stride(v.row_stride),
        class_stride(v.class_stride) {}
  template <class T>
  AnyView(const T* data_, std::int64_t rows_, std::int64_t classes_)
      : AnyView(View<const T>(data_, rows_, classes_)) {}
  template <class T>
  AnyView(const T* data_, std::int64_t rows_, std::int64_t classes_, std::int64_t row_stride_,
          std::int64_t class_stride_)
      : AnyView(View<const T>(data_, rows_, classes_, row_stride_, class_stride_)) {}
};

// What the rows are to learn besides the teacher: class indices, one a row, of 64 or 32 bits,
//
//     0 <= label < classes; kUnlabelled, a row that learns from the teacher alone; or Options::ignore_index,
//     padding
//
// or soft labels, probabilities (rows, classes), of which a row of zeros is unlabelled. Absent (null) where
// alpha is 0.
struct Labels {
  const std::int64_t* data = nullptr;
  const std::int32_t* data32 = nullptr;
  std::int64_t count = 0, stride = 1;
  AnyView probabilities;

  Labels() = default;
  Labels(const std::int64_t* data_, std::int64_t count_, std::int64_t stride_ = 1)
      : data(data_), count(count_), stride(stride_) {}
  Labels(const std::int32_t* data_, std::int64_t count_, std::int64_t stride_ = 1)
      : data32(data_), count(count_), stride(stride_) {}
  explicit Labels(AnyView probabilities_) : count(probabilities_.rows), probabilities(probabilities_) {}

  bool are_indices() const { return data != nullptr || data32 != nullptr; }
  bool are_soft() const { return probabilities.data != nullptr; }
  std::int64_t operator[](std::int64_t i) const {
    return data != nullptr ? data[i * stride] : data32[i * stride];
  }
};
constexpr std::int64_t kUnlabelled = -1;

}  // namespace kdloss
