// Memory that ends at an inaccessible page: reading or writing past its end ends the test.
#pragma once

#include <lora/core/types.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>

#include <gtest/gtest.h>

namespace lora_test {

/// n values right before an inaccessible page, initially small whole numbers.
template <class S>
struct AtPageEnd {
  char* pages;
  std::size_t size;
  S* data;
  explicit AtPageEnd(lora::Index n) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(S);
    size = (bytes + page - 1) / page * page + page;
    pages = static_cast<char*>(
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(pages, MAP_FAILED);
    mprotect(pages + size - page, page, PROT_NONE);
    data = reinterpret_cast<S*>(pages + size - page - bytes);
    for (lora::Index i = 0; i < n; ++i) data[i] = S(static_cast<double>(i % 7 - 3));
  }
  AtPageEnd(const AtPageEnd&) = delete;
  AtPageEnd& operator=(const AtPageEnd&) = delete;
  ~AtPageEnd() { munmap(pages, size); }
};

}  // namespace lora_test
