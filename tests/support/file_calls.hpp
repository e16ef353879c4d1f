// Replaces the POSIX calls by others, to check the state of a file when one of them fails.
#pragma once

#include <lora/io/atomic_file.hpp>

namespace lora_test {

using FileCalls = lora::detail::FileCalls;
using lora::detail::posix_calls;

/// While it lives, this thread reads and writes files through `calls`.
class WithFileCalls {
 public:
  explicit WithFileCalls(const FileCalls& calls) : before_(lora::detail::file_calls_in_force()) {
    lora::detail::file_calls_in_force() = &calls;
  }
  WithFileCalls(const WithFileCalls&) = delete;
  WithFileCalls& operator=(const WithFileCalls&) = delete;
  ~WithFileCalls() { lora::detail::file_calls_in_force() = before_; }

 private:
  const FileCalls* before_;
};

/// Returns act() while files are read and written through `calls`.
template <class Act>
decltype(auto) with_calls(const FileCalls& calls, Act&& act) {
  const WithFileCalls in_force(calls);
  return act();
}

}  // namespace lora_test
