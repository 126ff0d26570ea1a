# Lets a project compile Objective-C++ against the software Metal on Linux:
#
#   include(tests/metal_rig/framework/rig.cmake)   # before the targets; needs Python_EXECUTABLE
#   target_link_libraries(my_target PRIVATE metal_rig)
#
# For tests only: never part of a wheel.
include_guard(GLOBAL)
set(_tests "${CMAKE_CURRENT_LIST_DIR}/../..")
execute_process(
  COMMAND ${CMAKE_COMMAND} -E env "PYTHONPATH=${_tests}"
          ${Python_EXECUTABLE} -m metal_rig.framework.build --cmake
  OUTPUT_VARIABLE _description RESULT_VARIABLE _failed ERROR_VARIABLE _why)
if(_failed)
  message(FATAL_ERROR "The Metal rig cannot be built here: ${_why}")
endif()
# Three lines: the compiler, its flags, the libraries.
string(REGEX REPLACE "\n.*" "" CMAKE_OBJCXX_COMPILER "${_description}")
string(REGEX REPLACE "^[^\n]*\n([^\n]*)\n.*" "\\1" _compile "${_description}")
string(REGEX REPLACE "^[^\n]*\n[^\n]*\n([^\n]*)\n.*" "\\1" _link "${_description}")
enable_language(OBJCXX)

add_library(metal_rig INTERFACE)
target_compile_options(metal_rig INTERFACE "$<$<COMPILE_LANGUAGE:OBJCXX>:${_compile}>")
target_link_libraries(metal_rig INTERFACE ${_link})
