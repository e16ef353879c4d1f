# Each benchmark program is built and lists its cases as a test, and one small case runs for a blink. Exit codes are not
# looked at: they are not 0 when the machine was too busy for the figures to be believed.
get_property(programs DIRECTORY ${PROJECT_SOURCE_DIR}/bench PROPERTY BUILDSYSTEM_TARGETS)
foreach(program IN LISTS programs)
  if(program MATCHES "_bench$")
    add_test(NAME ${program} COMMAND ${program} --benchmark_list_tests)
    set_tests_properties(${program} PROPERTIES LABELS bench TIMEOUT 120 PASS_REGULAR_EXPRESSION "[a-z]/[^ /]")
  endif()
endforeach()
add_test(NAME lora_linear_bench_runs
         COMMAND lora_linear_bench --benchmark_min_time=0.001
                 --benchmark_filter=/forward_backward/width:768/tokens:1/rank:4/)
set_tests_properties(lora_linear_bench_runs PROPERTIES LABELS bench TIMEOUT 120
                     PASS_REGULAR_EXPRESSION "rank:4/real_time +[0-9.]+ ms +[0-9.]+ ms +[0-9]+")
