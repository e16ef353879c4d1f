// Runs loops on several threads, with a pool of workers that starts by itself. The workers are
// POSIX threads, because <thread> and <chrono> would be a sixth of what lora/lora.hpp costs to
// compile beyond Eigen.
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

/// The most threads that set_num_threads() accepts. Each thread has a stack, and running out of
/// memory later would not name the cause.
inline constexpr int most_threads = 1024;

namespace detail {

/// Thread counts that are determined once; 0 until then. They are not function statics, because a
/// child of fork() would find those locked if another thread was initialising them.
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

/// Returns LORA_NUM_THREADS, else OMP_NUM_THREADS, else the number of processors.
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

/// A type-erased loop body, neither copied nor allocated.
struct LoopBody {
  void* object;
  void (*call)(void* object, Index begin, Index end);
};

/// A loop cut into chunks of `grain`. Each free thread takes the next chunk.
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

/// Tells the processor that this thread is spinning on a variable.
inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Threads that wait for loops. The pool serves one loop at a time; a second or nested caller runs
/// its loop alone. The pool is never destroyed, so static objects may run loops in their
/// destructors: the workers are joined at the exit of the program, and later loops run on their
/// caller. The child of a fork() has none of the workers and starts its own.
template <class Loop>
class WorkerPool {
 public:
  static WorkerPool& instance() { return pool_; }

  /// Runs `loop` on up to `threads` threads including the caller. Returns false if the workers are
  /// busy or have ended.
  bool share(Loop& loop, int threads) {
    if (taken_.exchange(true)) return false;  // not a mutex: a nested call would lock its own
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
    // A worker increments inside_ before it reads open_, so none can be in the loop after this
    // wait.
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
  /// A node of a list that others may read while the owner of the turn adds to it.
  struct Worker {
    ::pthread_t thread;
    Worker* next;
  };

  constexpr WorkerPool() = default;
  ~WorkerPool() = default;

  /// Registers the exit and fork handlers, once. A child of a fork() during this call finds the
  /// workers taken and runs its loops alone.
  static void watch_the_process() {
    std::atexit([] { pool_.join_workers(); });
    ::pthread_atfork(nullptr, nullptr, [] { pool_.forget_workers(); });
  }

  /// Starts workers until there are `count`, or as many as the system allows: the caller can do all
  /// the work itself.
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

  /// Joins the workers: none may sleep in this code when a library that holds it is unloaded. One
  /// of the workers may have called exit().
  void join_workers() {
    stop_.store(true);
    generation_.fetch_add(1);
    generation_.notify_all();
    for (Worker* worker = workers_.load(); worker != nullptr; worker = worker->next) {
      if (!::pthread_equal(worker->thread, ::pthread_self()))
        ::pthread_join(worker->thread, nullptr);
    }
  }

  /// Forgets the workers in the child of a fork(): they do not exist there, and those that were in
  /// a loop never leave it. Their handles can be neither joined nor destroyed, so they are set
  /// aside.
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

  /// Spins for a while before the worker sleeps: the loops of a step follow each other closely, and
  /// waking a thread takes longer than many of them. Does not spin if others wait for the
  /// processor.
  void look_for_a_loop(unsigned seen) const {
    constexpr std::int64_t longest = 200'000;  // nanoseconds
    constexpr int looks = 64;                  // between two reads of the clock
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

  // Initialised before the program runs: a child of fork() would find a function static locked if
  // another thread was initialising it. Nothing has to be destroyed.
  static WorkerPool pool_;
  std::atomic<Worker*> workers_{nullptr};
  Worker* forgotten_ = nullptr;
  int started_ = 0;  ///< number of workers
  bool watched_ = false;
  Loop* loop_ = nullptr;
  std::atomic<int> places_{0}, inside_{0};
  std::atomic<bool> taken_{false}, open_{false}, stop_{false};
  std::atomic<unsigned> generation_{0};
};

template <class Loop>
constinit WorkerPool<Loop> WorkerPool<Loop>::pool_;

}  // namespace detail

/// Returns the number of threads that a loop of this library may use: that of set_num_threads(),
/// else LORA_NUM_THREADS, else OMP_NUM_THREADS, else the number of processors. Thread-safe.
inline int num_threads() { return detail::thread_limit().load(); }

/// Sets num_threads() for the whole process. Results do not depend on it.
/// Throws: ConfigError unless 1 ≤ n ≤ most_threads.
inline void set_num_threads(int n) {
  if (n < 1 || n > most_threads) {
    throw ConfigError("set_num_threads: n is " + std::to_string(n) + ", expected 1 to " +
                      std::to_string(most_threads));
  }
  detail::thread_limit().store(n);
}

/// Calls fn(begin, end) on several threads for consecutive ranges of at most `grain` that together
/// cover [0, count). The ranges depend only on count and `grain`, so results do not depend on the
/// number of threads. The loop runs on the caller's thread alone if it has one range, if it is
/// nested in another such loop, if another thread is using the workers, and in the destructors of
/// static objects.
/// The child of a fork() has workers of its own. If fn itself forks, the child must not return from
/// fn, because the ranges of other threads never run there.
/// Throws: the first exception of fn, after the loop has ended.
/// Allocates: only to start workers. If memory or the system does not suffice, the loop runs on
///   those that exist.
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
