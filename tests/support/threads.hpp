// A number of threads for as long as a test needs it.
#pragma once

#include <lora/core/parallel.hpp>

namespace lora_test {

/// set_num_threads(n) until it goes out of scope.
struct Threads {
  int before = lora::num_threads();
  explicit Threads(int n) { lora::set_num_threads(n); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { lora::set_num_threads(before); }
};

}  // namespace lora_test
