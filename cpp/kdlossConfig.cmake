# A static library needs OpenMP where it is linked; a shared one brings it.
include("${CMAKE_CURRENT_LIST_DIR}/kdlossTargets.cmake")
get_target_property(kdloss_type kdloss::kdloss TYPE)
if(kdloss_type STREQUAL "STATIC_LIBRARY")
  include(CMakeFindDependencyMacro)
  find_dependency(OpenMP COMPONENTS CXX)
endif()
unset(kdloss_type)
