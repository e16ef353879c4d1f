// Sets the number of threads while a test needs it.
#pragma once

#include <lora/core/parallel.hpp>

namespace lora_test {

/// Calls set_num_threads(n) and restores the old number at the end of its scope.
struct Threads {
  int before = lora::num_threads();
  explicit Threads(int n) { lora::set_num_threads(n); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { lora::set_num_threads(before); }
};

}  // namespace lora_test
