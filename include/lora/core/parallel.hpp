// Shares a loop between threads: a pool of workers that the library starts by itself. They are
// POSIX threads, since <thread> and <chrono> would be a sixth of what lora/lora.hpp costs to compile
// beyond Eigen.
#pragma once

#include <lora/core/error.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <new>
#include <string>

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

namespace lora {

/// More threads than this are refused: each has a stack of its own, and memory that runs out later
/// would not tell why.
inline constexpr int most_threads = 1024;

namespace detail {

/// Numbers that are asked for once; 0 until then. Not statics of functions, which would be locked in
/// the child of a fork() while another thread makes them.
struct ThreadCounts {
  std::atomic<int> of_machine{0}, limit{0};
};
inline constinit ThreadCounts thread_counts;

inline int num_threads_of_machine() {
  if (const int known = thread_counts.of_machine.load()) return known;
  const int count = std::max(1, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
  thread_counts.of_machine.store(count);
  return count;
}

/// LORA_NUM_THREADS, else OMP_NUM_THREADS, else what the machine has.
inline int default_num_threads() {
  for (const char* variable : {"LORA_NUM_THREADS", "OMP_NUM_THREADS"}) {
    const char* text = std::getenv(variable);
    const long n = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
    if (n >= 1) return static_cast<int>(std::min(n, long{most_threads}));
  }
  return num_threads_of_machine();
}

inline std::atomic<int>& thread_limit() {
  int unknown = 0;
  if (thread_counts.limit.load() == 0)
    thread_counts.limit.compare_exchange_strong(unknown, default_num_threads());
  return thread_counts.limit;
}

/// A loop body with its type erased: neither copied nor allocated.
struct LoopBody {
  void* object;
  void (*call)(void* object, Index begin, Index end);
};

/// One loop cut into chunks of `grain`; whoever is free takes the next one.
struct SharedLoop {
  Index count, grain;
  LoopBody body;
  std::atomic<Index> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;

  SharedLoop(Index n, Index g, LoopBody b) : count(n), grain(g), body(b) {}

  void work() {
    for (Index begin; (begin = next.fetch_add(grain)) < count && !failed.load();) {
      try {
        body.call(body.object, begin, std::min(begin + grain, count));
      } catch (...) {
        if (!failed.exchange(true)) failure = std::current_exception();
      }
    }
  }
};

/// Tells the processor that this thread looks at a variable again and again.
inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Threads that wait for loops. One loop is shared at a time; a second caller, or a nested one,
/// runs its own alone. The pool is never destroyed, so static objects may run loops in their
/// destructors: its workers are joined at the exit of the program, after which each loop runs on its
/// caller. In the child of a fork(), which has none of the workers, it begins anew.
template <class Loop>
class WorkerPool {
 public:
  static WorkerPool& instance() { return pool_; }

  /// Runs `loop` on up to `threads` threads, the caller among them. False when the workers are
  /// taken or have ended.
  bool share(Loop& loop, int threads) {
    if (taken_.exchange(true)) return false;  // no mutex: a nested call would lock its own thread's
    const Turn turn{taken_};
    if (stop_.load()) return false;
    start_workers(threads - 1);
    loop_ = &loop;
    places_.store(threads - 1);
    open_.store(true);
    generation_.fetch_add(1);
    generation_.notify_all();
    loop.work();
    open_.store(false);
    // A worker counts itself in before it looks at open_, so that none can still be inside after
    // this.
    for (int spins = 0; inside_.load() != 0; ++spins) {
      if (spins > 2000) ::sched_yield();
    }
    return true;
  }

  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

 private:
  struct Turn {
    std::atomic<bool>& taken;
    ~Turn() { taken.store(false); }
  };
  /// One of a list that others may read while the owner of the turn adds to it.
  struct Worker {
    ::pthread_t thread;
    Worker* next;
  };

  constexpr WorkerPool() = default;
  ~WorkerPool() = default;

  /// Arranges what happens at exit and in children, once. A child of a fork() in the middle of this
  /// finds the workers taken and runs its loops alone.
  static void watch_the_process() {
    std::atexit([] { pool_.join_workers(); });
    ::pthread_atfork(nullptr, nullptr, [] { pool_.forget_workers(); });
  }

  /// Has at least `count` workers, or as many as the system gives: the caller can do all the work
  /// itself.
  void start_workers(int count) {
    if (!watched_) {
      watched_ = true;
      watch_the_process();
    }
    const auto work = [](void* pool) -> void* {
      static_cast<WorkerPool*>(pool)->wait_for_loops();
      return nullptr;
    };
    for (; started_ < count; ++started_) {
      Worker* const worker = new (std::nothrow) Worker;
      if (worker == nullptr) return;
      if (::pthread_create(&worker->thread, nullptr, work, this) != 0) {
        delete worker;
        return;
      }
      worker->next = workers_.load();
      workers_.store(worker);
    }
  }

  /// Ends the workers: none may be asleep in this code when a library with it is unloaded. exit()
  /// may have been called by one of them.
  void join_workers() {
    stop_.store(true);
    generation_.fetch_add(1);
    generation_.notify_all();
    for (Worker* worker = workers_.load(); worker != nullptr; worker = worker->next) {
      if (!::pthread_equal(worker->thread, ::pthread_self()))
        ::pthread_join(worker->thread, nullptr);
    }
  }

  /// In the child of a fork() the workers are not there, nor will those that were inside a loop
  /// leave it. Their handles can be neither joined nor destroyed; they are kept apart.
  void forget_workers() noexcept {
    for (Worker* worker = workers_.exchange(nullptr); worker != nullptr;) {
      Worker* const next = worker->next;
      worker->next = forgotten_;
      forgotten_ = worker;
      worker = next;
    }
    started_ = 0;
    places_.store(0);
    inside_.store(0);
    open_.store(false);
    taken_.store(false);
  }

  void wait_for_loops() {
    for (unsigned seen = 0; !stop_.load();) {
      look_for_a_loop(seen);
      generation_.wait(seen);
      seen = generation_.load();
      inside_.fetch_add(1);
      if (open_.load() && places_.fetch_sub(1) > 0) loop_->work();
      inside_.fetch_sub(1);
    }
  }

  /// Loops of a step follow each other closely, and waking a thread takes longer than many of them:
  /// looks for a while before the worker goes to sleep; not where others wait for the processor.
  void look_for_a_loop(unsigned seen) const {
    constexpr std::int64_t longest = 200'000;  // nanoseconds
    constexpr int looks = 64;                  // between two looks at the clock
    if (num_threads_of_machine() < thread_limit().load()) return;
    const auto now = [] {
      std::timespec time{};
      ::clock_gettime(CLOCK_MONOTONIC, &time);
      return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
    };
    const std::int64_t begin = now();
    do {
      for (int i = 0; i < looks; ++i) {
        if (generation_.load() != seen) return;
        pause();
      }
    } while (now() - begin < longest);
  }

  // Made before the program runs: a function's static would be locked in the child of a fork() while
  // another thread makes it. Nothing has to be destroyed.
  static WorkerPool pool_;
  std::atomic<Worker*> workers_{nullptr};
  Worker* forgotten_ = nullptr;
  int started_ = 0;  ///< how many workers there are
  bool watched_ = false;
  Loop* loop_ = nullptr;
  std::atomic<int> places_{0}, inside_{0};
  std::atomic<bool> taken_{false}, open_{false}, stop_{false};
  std::atomic<unsigned> generation_{0};
};

template <class Loop>
constinit WorkerPool<Loop> WorkerPool<Loop>::pool_;

}  // namespace detail

/// How many threads a loop of this library may use. At the start: LORA_NUM_THREADS, else
/// OMP_NUM_THREADS, else the number of processors. Thread-safe.
inline int num_threads() { return detail::thread_limit().load(); }

/// Sets num_threads() for the whole process. Results do not depend on it. Throws ConfigError unless
/// 1 ≤ n ≤ most_threads.
inline void set_num_threads(int n) {
  if (n < 1 || n > most_threads) {
    throw ConfigError("set_num_threads: n is " + std::to_string(n) + ", expected 1 to " +
                      std::to_string(most_threads));
  }
  detail::thread_limit().store(n);
}

/// Calls fn(begin, end) for consecutive ranges of at most `grain` that together cover [0, count),
/// on several threads. Where the ranges begin depends on `grain` alone, so what is computed does
/// not depend on the number of threads. Runs on the caller's thread alone when there is one range,
/// when called from inside another such loop, when another thread of the program is using the
/// workers, and in the destructors of static objects. The first exception of fn is thrown again at
/// the end. Allocates only when workers are started; where memory or the system does not suffice for
/// them, the loop runs on those there are. The child of a fork() has workers of its own; one that
/// fn itself forks must not return from fn, since the ranges of other threads are not done in it.
template <class Fn>
void parallel_for(Index count, Index grain, Fn&& fn) {
  if (count <= 0) return;
  grain = std::clamp<Index>(grain, 1, count);
  const Index chunks = (count - 1) / grain + 1;
  const int threads = static_cast<int>(std::min<Index>(num_threads(), chunks));
  auto body = [&fn](Index begin, Index end) { fn(begin, end); };
  detail::SharedLoop loop(count, grain, {&body, [](void* object, Index begin, Index end) {
                                           (*static_cast<decltype(body)*>(object))(begin, end);
                                         }});
  if (threads <= 1 || !detail::WorkerPool<detail::SharedLoop>::instance().share(loop, threads))
    loop.work();
  if (loop.failure) std::rethrow_exception(loop.failure);
}

}  // namespace lora
