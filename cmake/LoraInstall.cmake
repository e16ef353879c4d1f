# `cmake --install`: headers, the targets lora::lora and lora::io, and a version file for find_package(lora).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(LORA_CMAKE_DIR ${CMAKE_INSTALL_DATADIR}/cmake/lora)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/lora DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(nlohmann_json_FOUND)
  install(TARGETS lora lora_io EXPORT loraTargets)
else()
  install(TARGETS lora EXPORT loraTargets)
endif()
install(EXPORT loraTargets NAMESPACE lora:: DESTINATION ${LORA_CMAKE_DIR})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/loraConfig.cmake.in ${PROJECT_BINARY_DIR}/loraConfig.cmake
                              INSTALL_DESTINATION ${LORA_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/loraConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/loraConfig.cmake ${PROJECT_BINARY_DIR}/loraConfigVersion.cmake
        DESTINATION ${LORA_CMAKE_DIR})
