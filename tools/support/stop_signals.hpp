// Handles signals that ask a program to stop.
#pragma once

#include <signal.h>

#include <initializer_list>
#include <utility>
#include <vector>

namespace tools {

/// Handles these signals while it lives, then restores their previous actions. Ignored signals stay
/// ignored: nohup starts programs with the hang-up ignored, and shell scripts start background jobs
/// with the interrupt ignored.
class StopSignals {
 public:
  StopSignals(std::initializer_list<int> signals, void (*handler)(int)) {
    for (const int signal : signals) {
      struct sigaction old = {};
      if (sigaction(signal, nullptr, &old) != 0 || old.sa_handler == SIG_IGN) continue;
      struct sigaction stop = {};
      stop.sa_handler = handler;
      stop.sa_flags = SA_RESTART;
      sigemptyset(&stop.sa_mask);
      if (sigaction(signal, &stop, nullptr) == 0) old_.emplace_back(signal, old);
    }
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals() {
    for (const auto& [signal, old] : old_) sigaction(signal, &old, nullptr);
  }

 private:
  std::vector<std::pair<int, struct sigaction>> old_;
};

}  // namespace tools
