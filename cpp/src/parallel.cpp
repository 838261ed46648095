#include "parallel.hpp"

#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <strings.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

#include "kdloss/kdloss.hpp"
#include "scratch.hpp"

namespace kdloss {
namespace {

// The least work for a thread, in elements: several times what it costs to hand work to a thread that spins.
constexpr std::int64_t kGrain = 4096;

// Threads that sleep are slow to wake, most of all beside a BLAS whose own threads still spin. So only a call
// of this many elements wakes them; a smaller one uses them where it follows another before they sleep.
constexpr std::int64_t kWorthWaking = 1 << 20;

// Threads that spin for milliseconds after a call take a processor from whatever the caller does next. Only a
// call of this many elements saves more than that costs.
constexpr std::int64_t kWorthSpinning = 1 << 25;

// Whether a call begins before the threads of the last one sleep. Only calls that may use threads count.
using Clock = std::chrono::steady_clock;
std::atomic<Clock::rep> last_end{std::numeric_limits<Clock::rep>::min() / 2};
thread_local bool watched = false;
Clock::rep now() { return Clock::now().time_since_epoch().count(); }
bool follows_quickly() {
  constexpr Clock::duration kSpin = std::chrono::microseconds(20);
  return now() - last_end.load(std::memory_order_relaxed) < kSpin.count();
}

// libgomp's, from its environment: unless told otherwise it spins 300,000 times, which takes milliseconds.
WaitPolicy policy_of_libgomp() {
  constexpr unsigned long long kBriefly = 10000;
  if (const char* const spins = std::getenv("GOMP_SPINCOUNT")) {
    char* end = nullptr;
    const unsigned long long count = std::strtoull(spins, &end, 10);
    // A number with a suffix means thousands or more, and "infinite" is not a number.
    return end != spins && *end == '\0' && count <= kBriefly ? WaitPolicy::kBrief : WaitPolicy::kLong;
  }
  const char* const policy = std::getenv("OMP_WAIT_POLICY");
  return policy != nullptr && strcasecmp(policy, "passive") == 0 ? WaitPolicy::kBrief : WaitPolicy::kLong;
}

// LLVM's and Intel's runtimes have a function for it, libgomp has none.
WaitPolicy policy_of_runtime() {
  Dl_info runtime;
  if (dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &runtime) == 0) return WaitPolicy::kLong;
  void* const library = dlopen(runtime.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return policy_of_libgomp();
  const auto blocktime = reinterpret_cast<int (*)()>(dlsym(library, "kmp_get_blocktime"));
  const WaitPolicy policy = blocktime == nullptr ? policy_of_libgomp()
                            : blocktime() == 0   ? WaitPolicy::kBrief
                                                 : WaitPolicy::kLong;
  dlclose(library);
  return policy;
}

std::atomic<WaitPolicy>& policy_in_use() {
  static std::atomic<WaitPolicy> policy{policy_of_runtime()};
  return policy;
}

// libgomp's threads do not survive a fork: a parallel region in the child would wait for them forever. So
// they end before a fork, and parent and child start new ones when they need them.
[[maybe_unused]] const int forks_are_watched =
    pthread_atfork([] { omp_pause_resource_all(omp_pause_soft); }, nullptr, nullptr);

// How many processors the control group's CPU quota amounts to, which OpenMP ignores; 0 without a quota.
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

// The rest of a thread's share of a loop, on a cache line that no other share uses.
struct alignas(64) Share {
  std::atomic<std::int64_t> next;
  std::int64_t end;

  // Takes half of what is left, from `first` on, and returns its length: 0 when nothing is left. So ranges
  // are long at the beginning, and short when other threads come to help.
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
  // Read at every call: the limit belongs to the calling thread, and threadpoolctl changes it.
  const int allowed = omp_get_max_threads();
  return quota() > 0 ? std::min(allowed, quota()) : allowed;
}

WaitPolicy wait_policy() { return policy_in_use().load(std::memory_order_relaxed); }
void read_wait_policy() { policy_in_use() = policy_of_runtime(); }

void record_call_end() {
  if (watched) last_end.store(now(), std::memory_order_relaxed);
}

int threads_for(int num_threads, std::int64_t elements) {
  watched = false;
  if (elements < 2 * kGrain || omp_in_parallel()) return 1;
  const int most = num_threads > 0 ? num_threads : max_threads();
  if (num_threads <= 0 && most > 1) {
    const bool brief = wait_policy() == WaitPolicy::kBrief;
    watched = brief;
    if (elements < (brief ? kWorthWaking : kWorthSpinning) && !(brief && follows_quickly())) return 1;
  }
  return static_cast<int>(std::min<std::int64_t>(most, elements / kGrain));
}

void parallel_for(std::int64_t count, int threads, Task body, void* context) {
  threads = static_cast<int>(std::min<std::int64_t>(threads, count));
  if (threads <= 1) {
    if (count > 0) body(context, 0, count, 0);
    return;
  }
  // Each thread works through a share of its own from end to end, and then helps the others. So the lines
  // that it prefetches are its own, and a small call that is repeated finds its arrays in the same
  // processor's cache.
  Scratch memory(threads, sizeof(Share), 1);
  Share* const shares = memory.piece<Share>(0);
  for (int k = 0; k < threads; ++k) new (shares + k) Share{{count * k / threads}, count * (k + 1) / threads};
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    for (int k = 0; k < threads; ++k) {
      Share& share = shares[(thread + k) % threads];
      std::int64_t first;
      while (const std::int64_t length = share.take(first)) body(context, first, first + length, thread);
    }
  }
}

}  // namespace kdloss
