# The warnings and sanitizers of our own programs, which never reach a user.
set(LORA_SANITIZE "" CACHE STRING "Sanitizers for our own programs, such as address,undefined")
option(LORA_WERROR "Treat warnings in our own programs as errors" ON)

# lora_strict(<target> [USER]): gives them to a target; with USER all of them, as a strict user would.
function(lora_strict target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13 AND NOT ARGV1 STREQUAL USER)
    # False alarms on std::string's operator+ (GCC bug 105329 and its like) in the texts of tests. The headers are free of
    # them: quickstart is built as a user's program, and tests/structure/warnings.sh tries all programs at every level.
    target_compile_options(${target} PRIVATE -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    # g++ collects its garbage less often: a fifth less time for a quarter more memory.
    target_compile_options(${target} PRIVATE "SHELL:--param ggc-min-expand=1000" "SHELL:--param ggc-min-heapsize=4000000")
  endif()
  if(LORA_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(LORA_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${LORA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=${LORA_SANITIZE})
  endif()
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
endfunction()

# lora_executable(<target> <source>...): one of our own programs.
function(lora_executable target)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE lora::io)
  lora_strict(${target})
endfunction()
