#include <support/allocations.hpp>

#include <lora/core/types.hpp>

#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace allocations_test {
using lora_test::AllocationCounter;
using lora_test::Allocations;

// The compiler may remove an allocation that nothing uses.
template <class T>
T* seen(T* p) {
  T* volatile through = p;
  return through;
}

// `make` allocates once, `release` frees. Returns the allocations counted during `make`.
template <class Make, class Release>
Allocations count(Make make, Release release) {
  AllocationCounter counter;
  auto* p = seen(make());
  const Allocations made = counter.stop();
  release(p);
  return made;
}

void expect_one(const Allocations& made, std::uint64_t size) {
  EXPECT_EQ(made.calls, 1u);
  EXPECT_EQ(made.bytes, size);
  EXPECT_EQ(made.largest, size);
}

TEST(Allocations, NothingIsNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  AllocationCounter counter;
  volatile int x = 1;
  x = x + 1;
  const Allocations made = counter.stop();
  EXPECT_EQ(made.calls, 0u);
  EXPECT_EQ(made.bytes, 0u);
  EXPECT_EQ(made.largest, 0u);
}

TEST(Allocations, EveryFormOfNew) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const std::align_val_t wide{128};
  expect_one(count([] { return ::operator new(24); }, [](void* p) { ::operator delete(p); }), 24);
  expect_one(count([] { return ::operator new[](40); }, [](void* p) { ::operator delete[](p); }),
             40);
  expect_one(count([] { return ::operator new(56, std::nothrow); },
                   [](void* p) { ::operator delete(p, std::nothrow); }),
             56);
  expect_one(count([&] { return ::operator new(256, wide); },
                   [&](void* p) { ::operator delete(p, wide); }),
             256);
  expect_one(count([&] { return ::operator new(384, wide, std::nothrow); },
                   [&](void* p) { ::operator delete(p, wide, std::nothrow); }),
             384);
}

TEST(Allocations, MallocAndItsRelatives) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const auto release = [](void* p) { std::free(p); };
  expect_one(count([] { return std::malloc(100); }, release), 100);
  expect_one(count([] { return std::calloc(7, 11); }, release), 77);
  expect_one(count([] { return std::aligned_alloc(64, 192); }, release), 192);
  expect_one(count(
                 [] {
                   void* p = nullptr;
                   EXPECT_EQ(posix_memalign(&p, 256, 300), 0);
                   EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % 256, 0u);
                   return p;
                 },
                 release),
             300);
  void* old = seen(std::malloc(8));
  expect_one(count([&] { return std::realloc(old, 5000); }, release), 5000);
}

TEST(Allocations, EigenIsCounted) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  lora::Matrix<double> a = lora::Matrix<double>::Ones(30, 20), b(20, 30), c(30, 30);
  b.setOnes();
  AllocationCounter none;
  c.setZero();
  a *= 2.0;
  EXPECT_EQ(none.stop().calls, 0u);
  AllocationCounter some;
  const lora::Matrix<double> product = a * b;
  const Allocations made = some.stop();
  EXPECT_EQ(product(0, 0), 40);
  EXPECT_GE(made.calls, 1u);
  EXPECT_GE(made.largest, 30u * 30u * sizeof(double));
}

TEST(Allocations, AddsUpOverThreads) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  AllocationCounter counter;
  {
    const auto work = [] {
      for (int i = 0; i < 100; ++i) std::free(seen(std::malloc(1000)));
    };
    std::thread first(work), second(work);
    first.join();
    second.join();
  }
  std::free(seen(std::malloc(123456)));
  const Allocations made = counter.stop();
  EXPECT_GE(made.calls, 201u);  // and what starting a thread takes
  EXPECT_GE(made.bytes, 200u * 1000u + 123456u);
  EXPECT_EQ(made.largest, 123456u);
}

TEST(Allocations, StopEndsTheCounting) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  AllocationCounter counter;
  auto kept = std::make_unique<std::vector<int>>(10);
  const Allocations first = counter.stop();
  std::string later(500, 'x');
  seen(later.data());
  const Allocations second = counter.stop();
  EXPECT_EQ(first.calls, second.calls);
  EXPECT_EQ(first.bytes, second.bytes);
  EXPECT_EQ(first.largest, second.largest);
}

TEST(Allocations, OnlyOneCounterAtATime) {
  AllocationCounter outer;
  std::string message;
  try {
    AllocationCounter inner;
  } catch (const std::logic_error& e) {
    message = e.what();
  }
  outer.stop();
  EXPECT_EQ(message, "AllocationCounter: one is counting already");
  AllocationCounter again;  // free once more after the refusal
}

TEST(Allocations, FailWhenAsked) {
  LORA_NEEDS_ALLOCATION_FAILURES();
  for (const long n : {0L, 1L, 5L}) {
    long made = 0;
    bool threw = false;
    const auto allocate = [&made] { delete seen(new int(7)), ++made; };
    {
      lora_test::FailingAllocations fail(n);
      try {
        for (int i = 0; i < 10; ++i) allocate();
      } catch (const std::bad_alloc&) {
        threw = true;
      }
      try {
        allocate();  // and go on failing
      } catch (const std::bad_alloc&) {
        threw = threw && true;
      }
    }
    allocate();
    EXPECT_TRUE(threw);
    EXPECT_EQ(made, n + 1);
  }
  bool threw = false;
  {
    lora_test::FailingAllocations fail(0);
    try {
      lora::Matrix<double> large(30, 30);
      large.setZero();
    } catch (const std::bad_alloc&) {
      threw = true;
    }
  }
  EXPECT_TRUE(threw) << "Eigen";
}

}  // namespace allocations_test
