// The instruction set that runs is the one that KDLOSS_ISA names.
#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "check.hpp"
#include "kdloss/kdloss.hpp"

namespace {

std::string listed(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

}  // namespace

KD_CASE(isa.the_forced_one_is_active) {
  const char* forced = std::getenv("KDLOSS_ISA");
  CHECK(forced != nullptr && *forced != '\0');  // the test is meaningless if nothing is forced
  if (forced == nullptr) return;
  CHECK_AT(kdloss::active_isa() == forced, kdloss::active_isa());
  const std::vector<std::string> available = kdloss::available_isas();
  CHECK(std::find(available.begin(), available.end(), forced) != available.end());
}

// The choice is made at the first call, and a failed one is made again at the next.
KD_CASE(isa.an_unknown_one_is_refused_by_name) {
  const float logits[2] = {1, 2};
  const std::string message =
      "KDLOSS_ISA is 'pentium', which is no instruction set of this build; expected one of: " +
      listed(kdloss::available_isas());
  setenv("KDLOSS_ISA", "pentium", 1);
  CHECK_THROWS(std::runtime_error, message, kdloss::active_isa());
  CHECK_THROWS(std::runtime_error, message, kdloss::kd_loss_single(logits, logits, 2, 0));
  setenv("KDLOSS_ISA", "", 1);  // the same as unset
  CHECK_AT(kdloss::active_isa() == kdloss::available_isas().back(), kdloss::active_isa());
}

KD_CASE(isa.one_that_the_machine_lacks_is_refused_by_name) {
  const std::vector<std::string> available = kdloss::available_isas();
  CHECK(!available.empty());
#if defined(__x86_64__)
  for (const char* name : {"x86-64-v3", "x86-64-v4"}) {
    if (std::find(available.begin(), available.end(), name) != available.end()) continue;
    setenv("KDLOSS_ISA", name, 1);
    CHECK_THROWS(std::runtime_error,
                 "KDLOSS_ISA is '" + std::string(name) + "', which this machine's processor lacks",
                 kdloss::active_isa());
  }
#endif
}
