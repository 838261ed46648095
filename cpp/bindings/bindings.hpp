// The concerns of the extension module, one a file.
#pragma once

#include <pybind11/pybind11.h>

void register_losses(pybind11::module_& module);
void register_softmax(pybind11::module_& module);
void register_config(pybind11::module_& module);
