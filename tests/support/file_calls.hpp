// Puts other system calls in the place of POSIX's, to see what a file is like when one of them fails.
#pragma once

#include <lora/io/atomic_file.hpp>

namespace lora_test {

using FileCalls = lora::detail::FileCalls;
using lora::detail::posix_calls;

/// While it lives, files of this thread are read and written by `calls`.
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

/// What act() gives while files are read and written by `calls`.
template <class Act>
decltype(auto) with_calls(const FileCalls& calls, Act&& act) {
  const WithFileCalls in_force(calls);
  return act();
}

}  // namespace lora_test
