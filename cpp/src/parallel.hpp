// The one parallel loop.
#pragma once

#include <cstdint>

namespace kdloss {

// The number of threads for a call that asks for num_threads (0: no wish) and has so much work, in elements.
int threads_for(int num_threads, std::int64_t elements);

// Runs body(i, thread) for i in [0, count) on so many threads, numbered from 0; a plain loop on this one for
// one.
void parallel_for(std::int64_t count, int threads, void (*body)(void* context, std::int64_t i, int thread),
                  void* context);

template <class Body>
void parallel_for(std::int64_t count, int threads, Body body) {
  parallel_for(
      count, threads,
      [](void* context, std::int64_t i, int thread) { (*static_cast<Body*>(context))(i, thread); }, &body);
}

}  // namespace kdloss
