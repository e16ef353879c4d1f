# cmake --build build --target api_reference: the API reference, in build/api/html/index.html. A warning of Doxygen is an error.
find_program(LORA_DOXYGEN doxygen)
if(LORA_DOXYGEN)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/Doxyfile.in ${PROJECT_BINARY_DIR}/Doxyfile @ONLY)
  add_custom_target(api_reference COMMAND ${LORA_DOXYGEN} ${PROJECT_BINARY_DIR}/Doxyfile VERBATIM)
else()
  add_custom_target(api_reference COMMAND ${CMAKE_COMMAND} -E echo "api_reference needs Doxygen; on Debian or Ubuntu:"
                    "sudo apt-get install doxygen" COMMAND ${CMAKE_COMMAND} -E false VERBATIM)
endif()
