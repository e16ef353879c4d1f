// A fixed-size array aligned to a cache line.
#pragma once

#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

namespace lora {

/// n uninitialised elements at an address that is a multiple of 64 bytes. Movable, not copyable.
template <class T>
class AlignedArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  AlignedArray() = default;
  /// Allocates n elements without initialising them.
  /// Throws: std::bad_alloc.
  explicit AlignedArray(std::ptrdiff_t n)
      : data_(n == 0
                  ? nullptr
                  : static_cast<T*>(::operator new(static_cast<std::size_t>(n) * sizeof(T), line))),
        size_(n) {}
  AlignedArray(AlignedArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedArray& operator=(AlignedArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AlignedArray() { ::operator delete(data_, line); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::ptrdiff_t size() const { return size_; }

 private:
  static constexpr std::align_val_t line{64};
  T* data_ = nullptr;
  std::ptrdiff_t size_ = 0;
};

}  // namespace lora
