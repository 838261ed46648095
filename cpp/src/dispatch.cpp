#include "dispatch.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kdloss/kdloss.hpp"

namespace kdloss {

#if defined(__x86_64__)
namespace baseline {
extern const Kernels kernels;
}
namespace x86_64_v3 {
extern const Kernels kernels;
}
namespace x86_64_v4 {
extern const Kernels kernels;
}
#elif defined(__aarch64__)
namespace neon {
extern const Kernels kernels;
}
#else
namespace baseline {
extern const Kernels kernels;
}
#endif

namespace {

struct Isa {
  const char* name;
  const Kernels* kernels;
  bool available;
};

#if defined(__x86_64__)
// lzcnt, movbe and f16c: of x86-64-v3 too, but not among the names that every compiler's cpu_supports knows.
bool has_rest_of_v3() {
  unsigned a, b, c, d, extended;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && __get_cpuid(0x80000001, &a, &b, &extended, &d) != 0 &&
         (c & bit_MOVBE) != 0 && (c & bit_F16C) != 0 && (extended & bit_LZCNT) != 0;
}
#endif

// Best last.
std::vector<Isa> built() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && has_rest_of_v3();
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return {{"baseline", &baseline::kernels, true},
          {"x86-64-v3", &x86_64_v3::kernels, v3},
          {"x86-64-v4", &x86_64_v4::kernels, v4}};
#elif defined(__aarch64__)
  return {{"neon", &neon::kernels, true}};
#else
  return {{"baseline", &baseline::kernels, true}};
#endif
}

Isa choose() {
  const std::vector<Isa> sets = built();
  const char* wanted = std::getenv("KDLOSS_ISA");
  if (wanted == nullptr || *wanted == '\0') {
    Isa best = sets.front();
    for (const Isa& isa : sets)
      if (isa.available) best = isa;
    return best;
  }
  std::string available;
  for (const Isa& isa : sets) {
    if (wanted == std::string(isa.name)) {
      if (isa.available) return isa;
      throw std::runtime_error("KDLOSS_ISA is '" + std::string(wanted) +
                               "', which this machine's processor lacks");
    }
    if (isa.available) available += (available.empty() ? "" : ", ") + std::string(isa.name);
  }
  throw std::runtime_error("KDLOSS_ISA is '" + std::string(wanted) +
                           "', which is no instruction set of this build; " +
                           "expected one of: " + available);
}

const Isa& chosen() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace

const Kernels& kernels() { return *chosen().kernels; }

std::string active_isa() { return chosen().name; }

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : built())
    if (isa.available) names.push_back(isa.name);
  return names;
}

}  // namespace kdloss
