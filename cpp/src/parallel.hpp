// The one parallel loop.
#pragma once

#include <cstdint>

#include "kernel_table.hpp"

namespace kdloss {

// The number of threads for a call that asks for num_threads (0: no wish) and has so much work, in elements.
int threads_for(int num_threads, std::int64_t elements);
// To be called when that work is done: a call that follows at once finds the threads still awake.
void record_call_end();

// Runs body(begin, end, thread) for ranges that make up [0, count), on so many threads, numbered from 0; on
// this one alone for one.
void parallel_for(std::int64_t count, int threads, Task body, void* context);

template <class Body>
void parallel_for(std::int64_t count, int threads, Body body) {
  parallel_for(
      count, threads,
      [](void* context, std::int64_t begin, std::int64_t end, int thread) {
        (*static_cast<Body*>(context))(begin, end, thread);
      },
      &body);
}

}  // namespace kdloss
