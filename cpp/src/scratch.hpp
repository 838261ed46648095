// Aligned working memory for the kernels, one piece a thread; a little of it needs no allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace kdloss {

class Scratch {
 public:
  Scratch(std::int64_t elements, std::size_t element_size, int pieces)
      : piece_bytes_((static_cast<std::size_t>(elements) * element_size + 63) / 64 * 64), data_(small_) {
    const std::size_t bytes = piece_bytes_ * static_cast<std::size_t>(pieces);
    if (bytes > sizeof small_) data_ = static_cast<char*>(::operator new(bytes, std::align_val_t{64}));
  }
  ~Scratch() {
    if (data_ != small_) ::operator delete(data_, std::align_val_t{64});
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* piece(int i) {
    return reinterpret_cast<T*>(data_ + piece_bytes_ * static_cast<std::size_t>(i));
  }

 private:
  std::size_t piece_bytes_;
  char* data_;
  alignas(64) char small_[16384];
};

}  // namespace kdloss
