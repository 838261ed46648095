#include "parallel.hpp"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>

#include "kdloss/kdloss.hpp"
#include "scratch.hpp"

namespace kdloss {
namespace {

// What is worth a thread: some 6 microseconds of work, where waking one that waits costs one or two (measured
// on two cores with AVX2, 0.7 elements a nanosecond).
constexpr std::int64_t kGrain = 4096;

// A thread without work spins for some 5 milliseconds and then sleeps, and waking it has been seen to take 7.
// So work that one thread does in 3 milliseconds is spread only where calls follow each other quickly, or the
// caller says how many threads.
constexpr std::int64_t kWorthWaking = 1 << 21;
constexpr std::chrono::milliseconds kQuickly{5};
bool calls_follow_quickly() {
  using Clock = std::chrono::steady_clock;
  static std::atomic<Clock::rep> last{std::numeric_limits<Clock::rep>::min() / 2};
  const Clock::rep now = Clock::now().time_since_epoch().count();
  return now - last.exchange(now, std::memory_order_relaxed) < Clock::duration(kQuickly).count();
}

// libgomp's threads do not survive a fork, and a region in the child would wait for them forever, whoever
// started them. So they end before it: parent and child start new ones when they need them.
[[maybe_unused]] const int forks_are_watched =
    pthread_atfork([] { omp_pause_resource_all(omp_pause_soft); }, nullptr, nullptr);

// The processors that the control group's quota amounts to, which OpenMP does not look at; 0 without a quota.
int quota() {
  static const int processors = [] {
    std::string limit;
    double period = 0;
    std::ifstream v2("/sys/fs/cgroup/cpu.max");
    if (v2 >> limit >> period && limit != "max" && period > 0)
      return std::max(1, static_cast<int>(std::ceil(std::stod(limit) / period)));
    double micros = 0;
    std::ifstream v1("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
        v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (v1 >> micros && v1_period >> period && micros > 0 && period > 0)
      return std::max(1, static_cast<int>(std::ceil(micros / period)));
    return 0;
  }();
  return processors;
}

// What is left of a thread's part of a loop. Each on a cache line of its own.
struct alignas(64) Part {
  std::atomic<std::int64_t> next;
  std::int64_t end;

  // Takes half of it, from first on: long ranges at the beginning, short ones for those who come to help at
  // the end. Their length, 0 when nothing is left.
  std::int64_t take(std::int64_t& first) {
    std::int64_t length;
    first = next.load(std::memory_order_relaxed);
    do {
      length = (end - first + 1) / 2;
    } while (length > 0 && !next.compare_exchange_weak(first, first + length, std::memory_order_relaxed));
    return length;
  }
};

}  // namespace

int max_threads() {
  // Asked at every call: the limit belongs to the calling thread, and threadpoolctl changes it.
  const int allowed = omp_get_max_threads();
  return quota() > 0 ? std::min(allowed, quota()) : allowed;
}

int threads_for(int num_threads, std::int64_t elements) {
  if (elements < 2 * kGrain || omp_in_parallel()) return 1;
  const int most = num_threads > 0 ? num_threads : max_threads();
  if (num_threads <= 0 && most > 1 && elements < kWorthWaking && !calls_follow_quickly()) return 1;
  return static_cast<int>(std::min<std::int64_t>(most, elements / kGrain));
}

void parallel_for(std::int64_t count, int threads, Task body, void* context) {
  threads = static_cast<int>(std::min<std::int64_t>(threads, count));
  if (threads <= 1) {
    if (count > 0) body(context, 0, count, 0);
    return;
  }
  // Each thread works through a part of its own from end to end, and then helps the others. So what it asks
  // for ahead is for itself (4096 x 1000: a twentieth to a fifth of the time against blocks dealt out in
  // turn, by how far apart the processors are), and a small call finds its arrays in the cache of the
  // processor that had them before.
  Scratch memory(threads, sizeof(Part), 1);
  Part* const parts = memory.piece<Part>(0);
  for (int k = 0; k < threads; ++k) new (parts + k) Part{{count * k / threads}, count * (k + 1) / threads};
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    for (int k = 0; k < threads; ++k) {
      Part& part = parts[(thread + k) % threads];
      std::int64_t first;
      while (const std::int64_t length = part.take(first)) body(context, first, first + length, thread);
    }
  }
}

}  // namespace kdloss
