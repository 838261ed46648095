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

// What is worth a thread: some 6 microseconds of work, where waking one that waits costs one or two (measured
// on two cores with AVX2, 0.7 elements a nanosecond).
constexpr std::int64_t kGrain = 4096;

// Threads that sleep cost 25 to 60 microseconds to wake, and 150 beside a BLAS whose own threads still look
// for work. So such a call is spread only from half a millisecond of work on, smaller ones where they follow
// each other before the threads sleep (measured on two cores with AVX-512, spin count 1000: after a matrix
// product 2^18 elements take 193 microseconds on one thread and 253 on two, 2^20 take 768 and 835, 2^22 3.4
// and 2.9 ms; after a pause 193 and 120, 765 and 416, 3.4 and 1.7).
constexpr std::int64_t kWorthWaking = 1 << 20;

// Threads that spin take a processor from whatever the caller does next: 4 to 8 milliseconds of a matrix
// product. That is worth it where they save more.
constexpr std::int64_t kWorthSpinning = 1 << 25;

// Whether a call begins before the threads of the last one sleep. Calls that may use threads are watched.
using Clock = std::chrono::steady_clock;
std::atomic<Clock::rep> last_end{std::numeric_limits<Clock::rep>::min() / 2};
thread_local bool watched = false;
Clock::rep now() { return Clock::now().time_since_epoch().count(); }
bool follows_quickly() {
  constexpr Clock::duration kSpin = std::chrono::microseconds(20);
  return now() - last_end.load(std::memory_order_relaxed) < kSpin.count();
}

// What libgomp makes of its environment: it spins 300,000 times, some milliseconds, if nobody says otherwise.
WaitPolicy policy_of_libgomp() {
  constexpr unsigned long long kBriefly = 10000;  // some 0.2 milliseconds
  if (const char* const spins = std::getenv("GOMP_SPINCOUNT")) {
    char* end = nullptr;
    const unsigned long long count = std::strtoull(spins, &end, 10);
    // With a suffix it is thousands or more, and "infinite" is no number.
    return end != spins && *end == '\0' && count <= kBriefly ? WaitPolicy::kBrief : WaitPolicy::kLong;
  }
  const char* const policy = std::getenv("OMP_WAIT_POLICY");
  return policy != nullptr && strcasecmp(policy, "passive") == 0 ? WaitPolicy::kBrief : WaitPolicy::kLong;
}

// LLVM's and Intel's runtime tells; libgomp does not.
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

WaitPolicy wait_policy() { return policy_in_use().load(std::memory_order_relaxed); }
void read_wait_policy() { policy_in_use() = policy_of_runtime(); }

void call_ends() {
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
