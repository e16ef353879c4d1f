// Signals that ask a program to stop; their actions are of the whole process, so each test puts
// them back.
#include "../../tools/support/stop_signals.hpp"

#include <gtest/gtest.h>

namespace stop_signals_test {
using tools::StopSignals;
using Action = void (*)(int);

volatile sig_atomic_t seen = 0;
void see(int signal) { seen = signal; }
void before(int) {}

Action action_of(int signal) {
  struct sigaction now = {};
  EXPECT_EQ(sigaction(signal, nullptr, &now), 0);
  return now.sa_handler;
}

/// Gives a signal an action for as long as it lives.
class Given {
 public:
  Given(int signal, Action action) : signal_(signal) {
    struct sigaction next = {};
    next.sa_handler = action;
    EXPECT_EQ(sigaction(signal, &next, &old_), 0);
  }
  Given(const Given&) = delete;
  Given& operator=(const Given&) = delete;
  ~Given() { sigaction(signal_, &old_, nullptr); }

 private:
  int signal_;
  struct sigaction old_ = {};
};

TEST(StopSignals, AreHandledAndThenGetBackTheActionTheyHad) {
  const Given usual(SIGTERM, SIG_DFL), own(SIGHUP, before);
  seen = 0;
  {
    const StopSignals stop({SIGTERM, SIGHUP}, see);
    EXPECT_EQ(raise(SIGTERM), 0);
    EXPECT_EQ(seen, SIGTERM);
    EXPECT_EQ(raise(SIGHUP), 0);
    EXPECT_EQ(seen, SIGHUP);
  }
  EXPECT_EQ(action_of(SIGTERM), SIG_DFL);
  EXPECT_EQ(action_of(SIGHUP), before);
}

TEST(StopSignals, OneThatIsIgnoredStaysIgnored) {
  const Given interrupt(SIGINT, SIG_IGN), usual(SIGHUP, SIG_DFL);
  seen = 0;
  {
    const StopSignals stop({SIGINT, SIGHUP}, see);
    EXPECT_EQ(raise(SIGINT), 0);
    EXPECT_EQ(seen, 0);
    EXPECT_EQ(action_of(SIGINT), SIG_IGN);
    EXPECT_EQ(action_of(SIGHUP), see);
  }
  EXPECT_EQ(action_of(SIGINT), SIG_IGN);
  EXPECT_EQ(action_of(SIGHUP), SIG_DFL);
}

}  // namespace stop_signals_test
