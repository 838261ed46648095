// The one parallel loop, and the memory that it and the kernels work in.
#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include "../../cpp/src/parallel.hpp"
#include "../../cpp/src/scratch.hpp"
#include "check.hpp"
#include "kdloss/kdloss.hpp"

// If any one thread is slow, the others do the rest of its work.
KD_CASE(parallel.every_index_comes_once) {
  for (const std::int64_t count : {0, 1, 2, 3, 7, 8, 64, 1001}) {
    for (int threads = 1; threads <= 5; ++threads) {
      for (int slow = 0; slow < threads; ++slow) {
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
        std::atomic<int> bad{0};
        kdloss::parallel_for(count, threads, [&](std::int64_t begin, std::int64_t end, int thread) {
          if (thread == slow) std::this_thread::sleep_for(std::chrono::microseconds(200));
          bad += !(0 <= begin && begin < end && end <= count) || thread < 0 || thread >= threads;
          for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
        });
        std::int64_t once = 0;
        for (const auto& times : seen) once += times == 1;
        CHECK_AT(bad == 0 && once == count, count, " on ", threads, ": ", once);
      }
    }
  }
}

// Buffers in use at the same time, nested or on different threads, do not overlap.
KD_CASE(parallel.scratch_is_its_owners_alone) {
  constexpr std::int64_t kMany = 20000;  // floats: more than lies on the stack
  const auto fill = [](kdloss::Scratch& scratch, float value) {
    for (int piece = 0; piece < 2; ++piece)
      for (std::int64_t i = 0; i < kMany; ++i)
        scratch.piece<float>(piece)[i] = value + static_cast<float>(piece);
  };
  const auto holds = [](kdloss::Scratch& scratch, float value) {
    bool yes = true;
    for (int piece = 0; piece < 2; ++piece)
      for (std::int64_t i = 0; i < kMany; ++i)
        yes &= scratch.piece<float>(piece)[i] == value + static_cast<float>(piece);
    return yes;
  };
  for (int round = 0; round < 2; ++round) {  // the second finds what the first has left
    kdloss::Scratch outer(kMany, sizeof(float), 2);
    CHECK(reinterpret_cast<std::uintptr_t>(outer.piece<float>(1)) % 64 == 0);
    fill(outer, 1);
    {
      kdloss::Scratch inner(kMany, sizeof(float), 2);
      fill(inner, 10);
      std::thread([&] {
        kdloss::Scratch other(kMany, sizeof(float), 2);
        fill(other, 100);
      }).join();
      CHECK(holds(inner, 10));
    }
    kdloss::Scratch second(kMany, sizeof(float), 2);
    fill(second, 1000);
    CHECK(holds(outer, 1));
    CHECK(holds(second, 1000));
  }
}

// The tests run with OMP_WAIT_POLICY=passive (discover.cmake). LLVM's runtime reads its environment once.
KD_CASE(parallel.threads_that_spin_are_used_for_long_work_alone) {
  using kdloss::WaitPolicy;
  constexpr std::int64_t kSome = 1 << 22, kMuch = 1 << 26;
  const int most = kdloss::max_threads();
  CHECK(kdloss::wait_policy() == WaitPolicy::kBrief);
  CHECK(kdloss::threads_for(0, kSome) == most);

  const bool is_llvm = dlsym(RTLD_DEFAULT, "kmp_get_blocktime") != nullptr;
  setenv("GOMP_SPINCOUNT", "300000", 1);
  kdloss::read_wait_policy();
  CHECK(kdloss::wait_policy() == (is_llvm ? WaitPolicy::kBrief : WaitPolicy::kLong));
  CHECK(kdloss::threads_for(0, kSome) == (is_llvm ? most : 1));
  CHECK(kdloss::threads_for(0, kMuch) == most);
  CHECK(kdloss::threads_for(3, kSome) == 3);

  unsetenv("GOMP_SPINCOUNT");
  kdloss::read_wait_policy();
  CHECK(kdloss::wait_policy() == WaitPolicy::kBrief);
}
