# lora_require(<package> <version> <Debian package>): find_package that says in one line what to install.
macro(lora_require package version debian)
  find_package(${package} ${version} QUIET)
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR "lora needs ${package} >= ${version}; on Debian or Ubuntu: sudo apt-get install ${debian}")
  endif()
endmacro()
