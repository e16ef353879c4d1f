// Counts the allocations of the process while a counter lives: operator new in all its forms,
// malloc and its relatives, and so Eigen, which calls malloc.
//
//     LORA_NEEDS_ALLOCATION_COUNTS();           // skips where nothing can be counted
//     AllocationCounter counter;
//     layer.backward(...);
//     const Allocations made = counter.stop();  // before the assertions, which allocate
//     EXPECT_EQ(made.calls, 0u);
//
// Can also make allocations fail, to check what is left when memory runs out:
//
//     LORA_NEEDS_ALLOCATION_FAILURES();
//     FailingAllocations fail(n);               // all but the first n of this thread
//
// An address or memory sanitizer reports each allocation through its hook. Otherwise, on glibc,
// allocations.cpp, which is part of every test program, defines malloc and forwards to glibc's;
// libstdc++'s operator new arrives there too. Elsewhere nothing is counted.
#pragma once

// Before the definitions: clang's mm_malloc.h, which Eigen includes, declares posix_memalign again.
#include <gtest/gtest.h>
#include <Eigen/Core>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LORA_TEST_SANITIZER_HOOK 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define LORA_TEST_SANITIZER_HOOK 1
#endif
#endif
#if !defined(LORA_TEST_SANITIZER_HOOK) && defined(__GLIBC__)
#define LORA_TEST_GLIBC_MALLOC 1
#endif

namespace lora_test {

/// The allocations of a part of the program, by all its threads. Freeing is not counted.
struct Allocations {
  std::uint64_t calls = 0;    ///< a realloc is a separate call with its new size
  std::uint64_t bytes = 0;    ///< as requested
  std::uint64_t largest = 0;  ///< bytes of the largest allocation
};

namespace detail {
inline std::atomic<bool> counting{false};
inline std::atomic<std::uint64_t> calls{0}, bytes{0}, largest{0};

/// How many allocations of this thread succeed before all fail; -1: none fails.
inline constinit thread_local long allowed = -1;

inline bool refuse() noexcept {
  if (allowed > 0) --allowed;
  if (allowed != 0) return false;
  errno = ENOMEM;
  return true;
}

inline void record(std::size_t size) noexcept {
  if (!counting.load(std::memory_order_relaxed)) return;
  calls.fetch_add(1, std::memory_order_relaxed);
  bytes.fetch_add(size, std::memory_order_relaxed);
  std::uint64_t seen = largest.load(std::memory_order_relaxed);
  while (seen < size && !largest.compare_exchange_weak(seen, size, std::memory_order_relaxed)) {
  }
}
}  // namespace detail

/// Counts from its construction to `stop`. Only one may exist in a process: a second one throws
/// std::logic_error.
class AllocationCounter {
 public:
  AllocationCounter() {
    if (detail::counting.load())
      throw std::logic_error("AllocationCounter: one is counting already");
    detail::calls = 0;
    detail::bytes = 0;
    detail::largest = 0;
    detail::counting = true;
  }
  AllocationCounter(const AllocationCounter&) = delete;
  AllocationCounter& operator=(const AllocationCounter&) = delete;
  ~AllocationCounter() { stop(); }

  /// Ends the counting. Later calls return the same figures.
  Allocations stop() {
    if (running_) {
      running_ = false;
      detail::counting = false;
      made_ = {detail::calls, detail::bytes, detail::largest};
    }
    return made_;
  }

 private:
  bool running_ = true;
  Allocations made_;
};

/// While it lives, the first n allocations of its thread succeed and all later ones fail.
class FailingAllocations {
 public:
  explicit FailingAllocations(long n) { detail::allowed = n + 1; }
  FailingAllocations(const FailingAllocations&) = delete;
  FailingAllocations& operator=(const FailingAllocations&) = delete;
  ~FailingAllocations() { detail::allowed = -1; }
};

/// Whether counting works in this program, found by trying the three paths to the allocator. (The
/// thread sanitizer's hook misses the aligned one.)
inline bool allocations_are_counted() {
  AllocationCounter counter;
  void* volatile from_malloc = std::malloc(24);
  char* volatile from_new = new char[40];
  void* volatile aligned = std::aligned_alloc(64, 64);
  const Allocations made = counter.stop();
  std::free(from_malloc);
  delete[] from_new;
  std::free(aligned);
  return made.calls == 3 && made.bytes == 24 + 40 + 64 && made.largest == 64;
}

/// Skips the running test if allocations cannot be counted.
#define LORA_NEEDS_ALLOCATION_COUNTS()       \
  if (!lora_test::allocations_are_counted()) \
  GTEST_SKIP()                               \
      << "allocations cannot be counted in this program (needs glibc or a sanitizer's hook)"

/// Skips the running test if allocations cannot be made to fail.
#if defined(LORA_TEST_GLIBC_MALLOC)
#define LORA_NEEDS_ALLOCATION_FAILURES() static_cast<void>(0)
#else
#define LORA_NEEDS_ALLOCATION_FAILURES() \
  GTEST_SKIP() << "allocations cannot be made to fail in this program (needs glibc)"
#endif

}  // namespace lora_test
