# Structure tests that are more than one file. Included at the end of tests/CMakeLists.txt.
file(GLOB_RECURSE lora_headers RELATIVE ${PROJECT_SOURCE_DIR}/include CONFIGURE_DEPENDS
     ${PROJECT_SOURCE_DIR}/include/lora/*.hpp)
set(lora_generated ${CMAKE_CURRENT_BINARY_DIR}/generated)

# Each header compiles with nothing of ours before it, and may be included twice. What Eigen, nlohmann-json and a few
# standard headers declare is there from the precompiled headers, in seconds instead of minutes, and a header whose test
# includes it first is left to that test; the workflow compiles all of them with nothing before (LORA_EVERY_HEADER_ALONE
# and CMAKE_DISABLE_PRECOMPILE_HEADERS).
option(LORA_EVERY_HEADER_ALONE "Compile also those headers alone that a test of their name includes first" OFF)
set(everything "// Every header of the library.\n#pragma once\n\n")
set(alone_sources "")
foreach(header IN LISTS lora_headers)
  string(REGEX REPLACE "[/.]" "_" name ${header})
  file(CONFIGURE OUTPUT ${lora_generated}/${name}.cpp CONTENT "#include <${header}>\n#include <${header}>\n")
  string(REGEX REPLACE "^lora/(.*)\\.hpp$" "${CMAKE_CURRENT_SOURCE_DIR}/\\1_test.cpp" own_test ${header})
  set(tested_first OFF)
  if(EXISTS ${own_test} AND NOT LORA_EVERY_HEADER_ALONE)
    file(STRINGS ${own_test} included LIMIT_COUNT 1 REGEX "^#include")
    if(included STREQUAL "#include <${header}>")
      set(tested_first ON)
    endif()
  endif()
  if(NOT tested_first)
    list(APPEND alone_sources ${lora_generated}/${name}.cpp)
  endif()
  string(APPEND everything "#include <${header}>\n")
endforeach()
file(CONFIGURE OUTPUT ${lora_generated}/lora_everything.hpp CONTENT "${everything}")
add_library(headers_alone OBJECT ${alone_sources})
target_link_libraries(headers_alone PRIVATE lora::io)
lora_strict(headers_alone)
target_compile_options(headers_alone PRIVATE ${lora_test_options})
target_link_libraries(headers_alone PRIVATE GTest::gtest_main)
target_precompile_headers(headers_alone REUSE_FROM common_headers)
# Two minutes: the workflow's job and `cmake --build build --target headers_alone` build it.
set_target_properties(headers_alone PROPERTIES EXCLUDE_FROM_ALL ON)

# Two translation units with every header, in one program.
target_sources(two_units_test PRIVATE structure/two_units_second.cpp)
target_include_directories(two_units_test PRIVATE ${lora_generated})

# These tests run the compiler: fast_math_test asks it which flags are refused, compile_memory_test what it needs.
foreach(name core_tests fast_math_test structure_tests compile_memory_test)
  target_compile_definitions(${name} PRIVATE LORA_CXX_COMPILER="${CMAKE_CXX_COMPILER}"
                             LORA_EIGEN_FOLDER="$<TARGET_PROPERTY:Eigen3::Eigen,INTERFACE_INCLUDE_DIRECTORIES>")
endforeach()

# An outside project uses the installed package, add_subdirectory and FetchContent.
find_program(LORA_BASH bash)
if(LORA_BASH)
  add_test(NAME package COMMAND ${LORA_BASH} ${CMAKE_CURRENT_SOURCE_DIR}/structure/package_test.sh
           ${PROJECT_SOURCE_DIR} ${CMAKE_COMMAND} ${CMAKE_CXX_COMPILER}
           -DEigen3_DIR=${Eigen3_DIR} -Dnlohmann_json_DIR=${nlohmann_json_DIR})
  set_tests_properties(package PROPERTIES TIMEOUT 900 LABELS build)
endif()

# Wide instructions are in the kernels only, as long as no flag asks for them everywhere: in programs that are built with
# -O2 and use everything.
if(LORA_BASH AND LORA_BUILD_EXAMPLES AND LORA_BUILD_TOOLS AND CMAKE_OBJDUMP AND CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64"
   AND NOT CMAKE_CXX_FLAGS MATCHES "-m")
  add_test(NAME wide_instructions
           COMMAND ${LORA_BASH} ${CMAKE_CURRENT_SOURCE_DIR}/structure/wide_instructions_test.sh ${CMAKE_OBJDUMP}
                   $<TARGET_FILE:lora_program> $<TARGET_FILE:adapt_digits>)
endif()

# g++ 12 with sanitizers takes a state inside std::regex for uninitialised.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND LORA_SANITIZE)
  foreach(name structure_tests house_rules_test includes_test readme_test)
    target_compile_options(${name} PRIVATE -Wno-maybe-uninitialized)
  endforeach()
endif()
