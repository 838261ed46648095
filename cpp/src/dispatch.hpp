// The instruction sets that this build holds, and the one that runs.
#pragma once

#include "kernel_table.hpp"

namespace kdloss {

// The kernels in use: the best set that the machine has, or the one that KDLOSS_ISA names. Chosen at the
// first call; throws std::runtime_error where KDLOSS_ISA names a set that this build or this machine lacks.
const Kernels& kernels();

}  // namespace kdloss
