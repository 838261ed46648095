// Aligned working memory for the kernels, one piece a thread; a little of it needs no allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace kdloss {

// The operating system gives large memory anew at every call, and each page costs a fault: large pages cost
// fewer.
constexpr std::size_t kMuch = std::size_t{4} << 20;
inline void ask_for_large_pages(void* data, std::size_t bytes) {
#if defined(__linux__)
  constexpr std::uintptr_t kPage = 4096;
  const auto address = reinterpret_cast<std::uintptr_t>(data), begin = (address + kPage - 1) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), address + bytes - begin, MADV_HUGEPAGE);  // may fail, harmlessly
#else
  (void)data, (void)bytes;
#endif
}

// Memory that a thread keeps from call to call: a small call would spend much of its time on an allocation.
class KeptMemory {
 public:
  static KeptMemory& of_this_thread() {
    static thread_local KeptMemory memory;
    return memory;
  }
  // Null where it is in use already, or too small.
  char* take(std::size_t bytes) {
    if (taken_ || bytes > kBytes) return nullptr;
    if (data_ == nullptr) data_ = static_cast<char*>(::operator new(kBytes, std::align_val_t{64}));
    taken_ = true;
    return data_;
  }
  // False where it was not taken from here.
  bool take_back(const char* data) {
    if (data != data_) return false;
    taken_ = false;
    return true;
  }
  ~KeptMemory() { ::operator delete(data_, std::align_val_t{64}); }

 private:
  static constexpr std::size_t kBytes = std::size_t{256} << 10;
  char* data_ = nullptr;
  bool taken_ = false;
};

class Scratch {
 public:
  Scratch(std::int64_t elements, std::size_t element_size, int pieces)
      : piece_bytes_((static_cast<std::size_t>(elements) * element_size + 63) / 64 * 64), data_(small_) {
    const std::size_t bytes = piece_bytes_ * static_cast<std::size_t>(pieces);
    if (bytes <= sizeof small_) return;
    data_ = KeptMemory::of_this_thread().take(bytes);
    if (data_ != nullptr) return;
    data_ = static_cast<char*>(::operator new(bytes, std::align_val_t{64}));
    if (bytes >= kMuch) ask_for_large_pages(data_, bytes);
  }
  ~Scratch() {
    if (data_ != small_ && !KeptMemory::of_this_thread().take_back(data_))
      ::operator delete(data_, std::align_val_t{64});
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
