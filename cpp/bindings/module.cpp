// The extension module kdloss._core: NumPy arrays in, NumPy arrays out. Its users are the functions in
// python/kdloss.
#include <kdloss/kdloss.hpp>

#include "bindings.hpp"

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
  module.doc() = "The compiled core of kdloss.";
  module.attr("__version__") = KDLOSS_VERSION;
  register_losses(module);
  register_softmax(module);
  register_config(module);
}
