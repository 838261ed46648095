// What runs: behind kdloss.show_config.
#include <dlfcn.h>
#include <omp.h>
#include <pybind11/stl.h>

#include <kdloss/kdloss.hpp>
#include <string>

#include "bindings.hpp"

namespace py = pybind11;

namespace {

// The library that the parallel loop's calls go to: other packages may bring others of their own.
std::string openmp_library() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &info) == 0 || info.dli_fname == nullptr)
    return "unknown";
  const std::string path = info.dli_fname;
  return path.substr(path.rfind('/') + 1);
}

}  // namespace

void register_config(py::module_& module) {
  module.def("config", [] {
    py::dict config;
    config["isa"] = kdloss::active_isa();
    config["available_isas"] = kdloss::available_isas();
    config["threads"] = kdloss::max_threads();
    config["compiler"] = KDLOSS_COMPILER;
    config["openmp"] = openmp_library();
    config["wait_policy"] = kdloss::wait_policy() == kdloss::WaitPolicy::kBrief ? "brief" : "long";
    config["version"] = KDLOSS_VERSION;
    return config;
  });
  // Now, while the environment says what python/kdloss/_load.py wants; again where that came too late.
  kdloss::read_wait_policy();
  module.def("read_wait_policy", kdloss::read_wait_policy);
}
