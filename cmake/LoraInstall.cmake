# `cmake --install`: headers, the targets lora::lora and lora::io, a version file for find_package(lora), and the program
# lora. `cpack -G DEB` in the build folder: a Debian package with the program alone.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(LORA_CMAKE_DIR ${CMAKE_INSTALL_DATADIR}/cmake/lora)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/lora DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT headers)
if(nlohmann_json_FOUND)
  install(TARGETS lora lora_io EXPORT loraTargets)
else()
  install(TARGETS lora EXPORT loraTargets)
endif()
install(EXPORT loraTargets NAMESPACE lora:: DESTINATION ${LORA_CMAKE_DIR} COMPONENT headers)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/loraConfig.cmake.in ${PROJECT_BINARY_DIR}/loraConfig.cmake
                              INSTALL_DESTINATION ${LORA_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/loraConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/loraConfig.cmake ${PROJECT_BINARY_DIR}/loraConfigVersion.cmake
        DESTINATION ${LORA_CMAKE_DIR} COMPONENT headers)

if(LORA_BUILD_TOOLS)
  # Optional: who wants the headers alone builds nothing before the installation.
  install(TARGETS lora_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT tools OPTIONAL)
  install(FILES ${PROJECT_SOURCE_DIR}/tools/copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/lora-tools COMPONENT tools)

  set(CPACK_GENERATOR DEB)
  set(CPACK_PACKAGE_NAME lora-tools)
  set(CPACK_PACKAGE_VENDOR "the authors of lora")
  set(CPACK_PACKAGE_CONTACT "The authors of lora <lora@localhost>")
  set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "fine-tune language models with LoRA on a CPU")
  set(CPACK_COMPONENTS_ALL tools)
  set(CPACK_DEB_COMPONENT_INSTALL ON)
  set(CPACK_DEBIAN_TOOLS_PACKAGE_NAME lora-tools)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  set(CPACK_DEBIAN_PACKAGE_SECTION science)
  set(CPACK_COMPONENT_TOOLS_DESCRIPTION
      "The program lora fine-tunes Llama, Qwen, Mistral and GPT-2 checkpoints with\nlow-rank adapters, writes text with them, and merges, combines, extracts and\nconverts adapters of PEFT and llama.cpp.")
  set(CPACK_STRIP_FILES ON)
  # Files and folders as Debian has them, whatever the umask of who builds.
  set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
                                                  WORLD_READ WORLD_EXECUTE)
  find_program(LORA_SHLIBDEPS dpkg-shlibdeps)
  if(LORA_SHLIBDEPS)
    set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
  else()
    set(CPACK_DEBIAN_PACKAGE_DEPENDS "libc6, libgcc-s1, libstdc++6")
  endif()
  include(CPack)
endif()
