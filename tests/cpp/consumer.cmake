# Builds and runs tests/cpp/consumer, with the package as installed or with the source tree as a subdirectory.
# WAY, SOURCE, BUILD, CONSUMER, WORK, GENERATOR, COMPILER, FLAGS, BUILD_TYPE
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    string(REPLACE ";" " " command "${ARGV}")
    message(FATAL_ERROR "failed: ${command}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
if(WAY STREQUAL find_package)
  run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
  set(kdloss -DCMAKE_PREFIX_PATH=${WORK}/prefix)
else()
  set(kdloss -DKDLOSS_SOURCE=${SOURCE})
endif()
run(${CMAKE_COMMAND} -S ${CONSUMER} -B ${WORK}/build -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER}
  "-DCMAKE_CXX_FLAGS=${FLAGS}" -DCMAKE_BUILD_TYPE=${BUILD_TYPE} ${kdloss})
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer)
