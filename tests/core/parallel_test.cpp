#include <support/allocations.hpp>
#include <support/threads.hpp>

#include <lora/core/parallel.hpp>

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>

#if defined(__SANITIZE_THREAD__)
#define LORA_TEST_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define LORA_TEST_THREAD_SANITIZER 1
#endif
#endif

namespace parallel_test {
using lora_test::Threads;
using namespace lora;

constexpr Index largest = std::numeric_limits<Index>::max();

/// How often each index was handed out, and where the ranges began.
struct Visits {
  std::vector<std::atomic<int>> times;
  std::atomic<Index> ranges{0}, longest{0};
  explicit Visits(Index count) : times(static_cast<std::size_t>(count)) {}
  void run(Index grain) {
    parallel_for(static_cast<Index>(times.size()), grain, [this](Index begin, Index end) {
      ++ranges;
      for (Index seen = longest; seen < end - begin;) {
        if (longest.compare_exchange_weak(seen, end - begin)) break;
      }
      for (Index i = begin; i < end; ++i) ++times.at(static_cast<std::size_t>(i));
    });
  }
  bool each_once() const {
    return std::all_of(times.begin(), times.end(), [](const auto& n) { return n == 1; });
  }
};

/// Long enough for a sleeping worker to wake up and take part.
void take_some_time() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

TEST(ParallelFor, CoversEveryIndexOnce) {
  for (const int threads : {1, 2, 3, 7}) {
    const Threads use(threads);
    for (const Index count : {1, 2, 3, 7, 64, 101, 1000, 4099}) {
      for (const Index grain : {1, 2, 3, 5, 64, 1000, 5000}) {
        Visits visits(count);
        visits.run(grain);
        EXPECT_TRUE(visits.each_once()) << count << " by " << grain << " on " << threads;
        EXPECT_EQ(visits.ranges, (count + grain - 1) / grain);
        EXPECT_EQ(visits.longest, std::min(count, grain));
      }
    }
  }
}

TEST(ParallelFor, RangesBeginWhereTheGrainSaysOnAnyNumberOfThreads) {
  for (const int threads : {1, 2, 7}) {
    const Threads use(threads);
    std::mutex mutex;
    std::set<std::pair<Index, Index>> ranges;
    parallel_for(11, 4, [&](Index begin, Index end) {
      const std::lock_guard<std::mutex> lock(mutex);
      ranges.insert({begin, end});
    });
    EXPECT_EQ(ranges, (std::set<std::pair<Index, Index>>{{0, 4}, {4, 8}, {8, 11}}));
  }
}

TEST(ParallelFor, NothingToDoCallsNothing) {
  for (const Index count : {Index{0}, Index{-1}, std::numeric_limits<Index>::min()})
    parallel_for(count, 1, [](Index, Index) { FAIL() << "called"; });
}

TEST(ParallelFor, AGrainBelowOneIsOne) {
  for (const Index grain : {Index{0}, Index{-5}, std::numeric_limits<Index>::min()}) {
    Visits visits(5);
    visits.run(grain);
    EXPECT_TRUE(visits.each_once());
    EXPECT_EQ(visits.ranges, 5);
  }
}

// A grain of "everything" must not overflow on the way to the number of ranges.
TEST(ParallelFor, AGrainBeyondTheCountIsOneRange) {
  const Threads use(3);
  for (const Index grain : {Index{6}, largest - 1, largest}) {
    Visits visits(5);
    visits.run(grain);
    EXPECT_TRUE(visits.each_once());
    EXPECT_EQ(visits.ranges, 1);
  }
}

TEST(ParallelFor, OneRangeRunsOnTheCaller) {
  const Threads use(4);
  std::thread::id where;
  parallel_for(10, 10, [&](Index, Index) { where = std::this_thread::get_id(); });
  EXPECT_EQ(where, std::this_thread::get_id());
}

TEST(ParallelFor, OneThreadGoesInOrderOnTheCaller) {
  const Threads use(1);
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<Index> begins;
  parallel_for(10, 3, [&](Index begin, Index) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    begins.push_back(begin);
  });
  EXPECT_EQ(begins, (std::vector<Index>{0, 3, 6, 9}));
}

// Each range waits until both are begun, which needs two threads at the same time.
TEST(ParallelFor, IsParallel) {
  const Threads use(2);
  std::atomic<int> begun{0};
  parallel_for(2, 1, [&](Index, Index) {
    ++begun;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (begun < 2 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
    EXPECT_EQ(begun, 2);
  });
}

TEST(ParallelFor, NeverUsesMoreThreadsThanAllowed) {
  {
    const Threads more(7);  // workers of a larger number stay, and must not join in
    parallel_for(1000, 1, [](Index, Index) {});
  }
  for (const int threads : {1, 2, 3}) {
    const Threads use(threads);
    for (int repeat = 0; repeat < 10; ++repeat) {
      std::mutex mutex;
      std::set<std::thread::id> who;
      parallel_for(20, 1, [&](Index, Index) {
        take_some_time();
        const std::lock_guard<std::mutex> lock(mutex);
        who.insert(std::this_thread::get_id());
      });
      EXPECT_LE(who.size(), static_cast<std::size_t>(threads));
    }
  }
}

TEST(ParallelFor, TakesAnythingThatCanBeCalled) {
  struct Counter {
    Index total = 0;
    void operator()(Index begin, Index end) { total += end - begin; }
  };
  const Threads use(1);
  Counter counter;
  parallel_for(10, 3, counter);  // by reference: not a copy that is thrown away
  EXPECT_EQ(counter.total, 10);
  std::atomic<Index> total{0};
  const auto constant = [&](Index begin, Index end) { total += end - begin; };
  parallel_for(10, 3, constant);
  static std::atomic<Index> seen{0};
  struct Free {
    static void function(Index begin, Index end) { seen += end - begin; }
  };
  parallel_for(10, 3, Free::function);
  EXPECT_EQ(total, 10);
  EXPECT_EQ(seen, 10);
}

TEST(ParallelFor, NestedCallsRunToTheEnd) {
  for (const int threads : {1, 2, 5}) {
    const Threads use(threads);
    Visits outer(13);
    std::atomic<Index> inner{0};
    parallel_for(13, 2, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) ++outer.times[static_cast<std::size_t>(i)];
      parallel_for(17, 3, [&](Index b, Index e) {
        parallel_for(e - b, 1, [&](Index b2, Index e2) { inner += e2 - b2; });
      });
    });
    EXPECT_TRUE(outer.each_once());
    EXPECT_EQ(inner, 7 * 17);
  }
}

TEST(ParallelFor, ANestedCallStaysOnItsThread) {
  const Threads use(4);
  parallel_for(2, 1, [](Index, Index) {  // two workers have nothing to do and would gladly help
    const std::thread::id outer = std::this_thread::get_id();
    parallel_for(6, 1, [&](Index, Index) {
      take_some_time();
      EXPECT_EQ(std::this_thread::get_id(), outer);
    });
  });
}

TEST(ParallelFor, SeveralCallersAtOnce) {
  const Threads use(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 5; ++caller) {
    callers.emplace_back([&wrong, caller] {
      for (int repeat = 0; repeat < 300; ++repeat) {
        Visits visits(37 + caller);
        visits.run(4);
        if (!visits.each_once()) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

// What the body wrote is seen by the caller without any synchronisation of its own.
TEST(ParallelFor, WhatWasWrittenIsSeenAfterwards) {
  const Threads use(3);
  std::vector<Index> values(257);
  for (Index repeat = 0; repeat < 500; ++repeat) {
    parallel_for(257, 5, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) values[static_cast<std::size_t>(i)] += i + repeat;
    });
  }
  for (Index i = 0; i < 257; ++i)
    EXPECT_EQ(values[static_cast<std::size_t>(i)], 500 * i + 499 * 500 / 2);
}

TEST(ParallelFor, ThrowsTheFirstExceptionAndGoesOnWorking) {
  for (const int threads : {1, 2, 3, 7}) {
    const Threads use(threads);
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::atomic<Index> after{0};
      std::string message;
      try {
        parallel_for(1000, 1, [&](Index begin, Index) {
          if (begin == repeat) throw ConfigError("range " + std::to_string(begin));
          if (begin > repeat) ++after;
        });
      } catch (const ConfigError& e) {
        message = e.what();
      }
      EXPECT_EQ(message, "range " + std::to_string(repeat));
      if (threads == 1) {
        EXPECT_EQ(after, 0);  // what has not begun is left
      }
      Visits visits(101);
      visits.run(2);
      EXPECT_TRUE(visits.each_once());
    }
  }
}

TEST(ParallelFor, WhenEveryRangeThrowsOneComesOut) {
  const Threads use(3);
  for (int repeat = 0; repeat < 200; ++repeat)
    EXPECT_THROW(parallel_for(20, 1, [](Index b, Index) { throw b; }), Index);
}

TEST(ParallelFor, AnExceptionComesOutOfANestedCall) {
  const Threads use(3);
  std::string message;
  try {
    parallel_for(5, 1, [](Index i, Index) {
      parallel_for(5, 1, [i](Index j, Index) {
        if (i == 2 && j == 3) throw ShapeError("inner");
      });
    });
  } catch (const ShapeError& e) {
    message = e.what();
  }
  EXPECT_EQ(message, "inner");
}

TEST(ParallelFor, AHundredThousandTinyLoops) {
  for (const int threads : {2, 3}) {
    const Threads use(threads);
    Index total = 0;
    std::atomic<Index> part{0};
    for (int repeat = 0; repeat < 50000; ++repeat) {
      part = 0;
      parallel_for(3, 1, [&](Index begin, Index end) { part += end - begin; });
      total += part;
    }
    EXPECT_EQ(total, 150000);
  }
}

TEST(ParallelFor, TheNumberOfThreadsMayChangeBetweenLoops) {
  const Threads use(1);
  for (int repeat = 0; repeat < 2000; ++repeat) {
    set_num_threads(1 + repeat % 6);
    Visits visits(29);
    visits.run(3);
    ASSERT_TRUE(visits.each_once()) << repeat;
  }
}

#if defined(__GLIBC__)
// Threads with a stack as large as the address space cannot be started.
struct NoNewThreads {
  pthread_attr_t before, impossible;
  int failed = 0;
  NoNewThreads() {
    failed |= pthread_getattr_default_np(&before);
    failed |= pthread_getattr_default_np(&impossible);
    failed |= pthread_attr_setstacksize(&impossible, std::size_t{1} << 47);
    failed |= pthread_setattr_default_np(&impossible);
  }
  NoNewThreads(const NoNewThreads&) = delete;
  NoNewThreads& operator=(const NoNewThreads&) = delete;
  ~NoNewThreads() {
    pthread_setattr_default_np(&before);
    pthread_attr_destroy(&impossible);
    pthread_attr_destroy(&before);
  }
};

TEST(ParallelFor, GoesOnWithTheThreadsThereAre) {
  const Threads use(64);
  {
    const NoNewThreads none;
    ASSERT_EQ(none.failed, 0);
    ASSERT_THROW(std::thread([] {}).join(), std::system_error);
    Visits visits(200);
    visits.run(1);
    EXPECT_TRUE(visits.each_once());
  }
  Visits visits(200);  // and with all of them when they can be had again
  visits.run(1);
  EXPECT_TRUE(visits.each_once());
}
#endif

/// How many threads took part in a loop of `ranges` ranges, each of which waits for the others.
std::size_t threads_in_a_loop(Index ranges) {
  std::mutex mutex;
  std::set<std::thread::id> who;
  std::atomic<Index> begun{0};
  parallel_for(ranges, 1, [&](Index, Index) {
    ++begun;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (begun < ranges && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
    const std::lock_guard<std::mutex> lock(mutex);
    who.insert(std::this_thread::get_id());
  });
  return who.size();
}

// The leak sanitizer asks this at exit. A child of fork() does not look for leaks: it would wait for
// a lock that another thread of its parent held.
bool is_child_of_fork = false;
extern "C" int __lsan_is_turned_off() { return is_child_of_fork; }

/// The exit status of a child that runs `body` and then leaves by exit(0); 1000 + the signal that
/// ended it.
template <class Body>
int status_of_child(Body body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    is_child_of_fork = true;
    body();
    std::exit(0);  // with the destructors of static objects
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) return -1;
  return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

TEST(Fork, AChildLeavesByExit) {
  for (const int threads : {2, 3, 4, 8}) {
    const Threads use(threads);
    Visits visits(101);
    visits.run(1);
    for (int repeat = 0; repeat < 3; ++repeat) EXPECT_EQ(status_of_child([] {}), 0) << threads;
    EXPECT_EQ(threads_in_a_loop(threads), static_cast<std::size_t>(threads));  // of the parent
  }
}

TEST(Fork, AChildHasWorkersOfItsOwn) {
#if defined(LORA_TEST_THREAD_SANITIZER)
  GTEST_SKIP() << "the thread sanitizer starts no threads in the child of a program with threads";
#endif
  const Threads use(4);
  Visits visits(101);
  visits.run(1);
  EXPECT_EQ(status_of_child([] {
              if (threads_in_a_loop(4) != 4) std::exit(2);
              Visits own(1001);
              own.run(3);
              if (!own.each_once()) std::exit(3);
              // A child of the child, while the workers of both are asleep.
              if (status_of_child([] { std::exit(threads_in_a_loop(3) == 3 ? 0 : 4); }) != 0)
                std::exit(5);
            }),
            0);
}

// A worker that was late for a loop may be on its way in or out when another thread forks.
TEST(Fork, WhileAnotherThreadRunsLoops) {
#if defined(LORA_TEST_THREAD_SANITIZER)
  GTEST_SKIP() << "the thread sanitizer starts no threads in the child of a program with threads";
#endif
  const Threads use(4);
  std::atomic<bool> stop{false};
  std::thread other([&stop] {
    while (!stop) parallel_for(8, 1, [](Index, Index) {});
  });
  for (int repeat = 0; repeat < 40; ++repeat) {
    EXPECT_EQ(status_of_child([] {
                Visits own(100);
                own.run(1);
                if (!own.each_once()) std::exit(2);
              }),
              0);
  }
  stop = true;
  other.join();
}

/// Made before the workers, so destroyed after them: its destructor runs loops when it is asked to.
struct RunsLoopsAtExit {
  int threads = 0;
  ~RunsLoopsAtExit() {
    if (threads == 0) return;
    set_num_threads(threads);
    Visits visits(101);
    visits.run(1);
    const bool alone = [] {
      const std::thread::id caller = std::this_thread::get_id();
      std::atomic<bool> same{true};
      parallel_for(50, 1, [&](Index, Index) {
        if (std::this_thread::get_id() != caller) same = false;
      });
      return same.load();
    }();
    std::fprintf(stderr, "at exit: %s, %s\n", visits.each_once() ? "each once" : "wrong",
                 alone ? "alone" : "shared");
  }
} runs_loops_at_exit;

TEST(StaticDestructors, RunLoopsOnTheirOwn) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";  // another process, not a fork of this one
  for (const int threads : {2, 8, 64}) {
    EXPECT_EXIT(
        {
          set_num_threads(4);
          threads_in_a_loop(4);
          runs_loops_at_exit.threads = threads;
          std::exit(0);
        },
        testing::ExitedWithCode(0), "at exit: each once, alone");
  }
}

TEST(StaticDestructors, ExitInsideALoop) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        set_num_threads(4);
        threads_in_a_loop(4);
        runs_loops_at_exit.threads = 8;
        parallel_for(100, 1, [](Index begin, Index) {
          if (begin == 50) std::exit(7);
        });
      },
      testing::ExitedWithCode(7), "at exit: each once, alone");
}

TEST(ParallelFor, AllocatesNothingOnceTheWorkersRun) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const Threads use(3);
  std::atomic<Index> total{0};
  const auto loop = [&] { parallel_for(100, 7, [&](Index b, Index e) { total += e - b; }); };
  loop();
  lora_test::AllocationCounter counter;
  for (int repeat = 0; repeat < 100; ++repeat) loop();
  const lora_test::Allocations made = counter.stop();
  EXPECT_EQ(made.calls, 0u);
  EXPECT_EQ(total, 101 * 100);
}

TEST(NumThreads, IsWhatWasSet) {
  const Threads use(5);
  EXPECT_EQ(num_threads(), 5);
  set_num_threads(1);
  EXPECT_EQ(num_threads(), 1);
}

TEST(NumThreads, BelowOneIsRefusedAndChangesNothing) {
  const Threads use(5);
  for (const int n : {0, -1, std::numeric_limits<int>::min()}) {
    std::string message;
    try {
      set_num_threads(n);
    } catch (const ConfigError& e) {
      message = e.what();
    }
    EXPECT_EQ(message, "set_num_threads: n is " + std::to_string(n) + ", expected 1 to 1024");
    EXPECT_EQ(num_threads(), 5);
  }
}

// The environment is read once a process, so each case is a run of this program of its own.
TEST(NumThreads, DISABLED_ChildSaysItsNumber) {
  std::printf("threads=%d\n", num_threads());
  Visits visits(1001);
  visits.run(10);
  EXPECT_TRUE(visits.each_once());
}

int threads_of_a_child(const std::string& environment) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command = "env -u LORA_NUM_THREADS -u OMP_NUM_THREADS " + environment + " '" +
                              self +
                              "' --gtest_also_run_disabled_tests"
                              " --gtest_filter=NumThreads.DISABLED_ChildSaysItsNumber 2>/dev/null";
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed: " + command);
  int threads = -1;
  char line[256];
  while (std::fgets(line, sizeof line, pipe) != nullptr) {
    const std::string text = line;
    const std::size_t at = text.find("threads=");
    if (at != std::string::npos) threads = std::stoi(text.substr(at + 8));
  }
  return pclose(pipe) == 0 ? threads : -1;
}

TEST(NumThreads, BeginsWithTheEnvironment) {
  if (!std::filesystem::exists("/proc/self/exe")) GTEST_SKIP() << "needs /proc";
  const int machine = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  EXPECT_EQ(threads_of_a_child(""), machine);
  EXPECT_EQ(threads_of_a_child("LORA_NUM_THREADS=3"), 3);
  EXPECT_EQ(threads_of_a_child("OMP_NUM_THREADS=4"), 4);
  EXPECT_EQ(threads_of_a_child("OMP_NUM_THREADS=4,2"), 4);  // OpenMP's list, one a nesting level
  EXPECT_EQ(threads_of_a_child("LORA_NUM_THREADS=3 OMP_NUM_THREADS=4"), 3);
  for (const char* odd : {"", "0", "-2", "many"}) {
    EXPECT_EQ(threads_of_a_child("LORA_NUM_THREADS=" + std::string(odd)), machine) << odd;
    EXPECT_EQ(threads_of_a_child("OMP_NUM_THREADS=5 LORA_NUM_THREADS=" + std::string(odd)), 5);
  }
  EXPECT_EQ(threads_of_a_child("LORA_NUM_THREADS=1025"), 1024);
  EXPECT_EQ(threads_of_a_child("LORA_NUM_THREADS=99999999999999999999"), 1024);
  EXPECT_EQ(threads_of_a_child("LORA_NUM_THREADS=4294967298"), 1024);  // not 2
}

}  // namespace parallel_test
