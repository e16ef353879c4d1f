#!/usr/bin/env bash
# An outside project builds with lora as an installed package, by add_subdirectory and by FetchContent, and gets
# no flag, definition, warning or test from it.
#   package_test.sh <source folder> <cmake> <C++ compiler> [cache settings for every configure ...]
set -euo pipefail
source_dir=$(cd "$1" && pwd) cmake=$2 compiler=$3
shift 3
settings=(-G "Unix Makefiles" "-DCMAKE_CXX_COMPILER=$compiler" "$@")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset CXXFLAGS CPPFLAGS LDFLAGS CMAKE_BUILD_TYPE CMAKE_GENERATOR

fail() { echo "FAILED: $*" >&2; exit 1; }
quiet() { "$@" > "$work/log" 2>&1 || { cat "$work/log" >&2; fail "$*"; }; }
expect() {  # <what> <actual> <expected>
  [ "$2" = "$3" ] || fail "$1 is '$2', expected '$3'"
}

version=$(sed -n 's/^project(lora VERSION \([0-9.]*\).*/\1/p' "$source_dir/CMakeLists.txt")
IFS=. read -r major minor patch <<< "$version"
[ -n "${patch:-}" ] || fail "no version x.y.z in CMakeLists.txt"

# --- The package, moved after its installation: no path in it may point back.
quiet "$cmake" -S "$source_dir" -B "$work/lora" "${settings[@]}" -DLORA_BUILD_TESTS=OFF \
      -DLORA_BUILD_BENCH=OFF -DLORA_BUILD_EXAMPLES=OFF -DLORA_BUILD_TOOLS=OFF
quiet "$cmake" --install "$work/lora" --prefix "$work/staging"
mv "$work/staging" "$work/prefix"
headers() { (cd "$1" && find lora -type f | sort); }
expect "the list of installed headers" "$(headers "$work/prefix/include")" "$(headers "$source_dir/include")"
if grep -rnF -e "$source_dir" -e "$work" "$work/prefix/share"; then fail "the package names a folder of this machine"; fi
if grep -rnE 'INTERFACE_(COMPILE_OPTIONS|COMPILE_DEFINITIONS|LINK_OPTIONS|PRECOMPILE_HEADERS)' "$work/prefix/share"; then
  fail "the package carries options"
fi

# --- The outside project; -DWAY=plain is the same program's flags without lora.
mkdir "$work/outside"
cat > "$work/outside/CMakeLists.txt" << 'END'
cmake_minimum_required(VERSION 3.22)
project(outside LANGUAGES CXX)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(WAY STREQUAL "package")
  find_package(lora ${LORA_VERSION} REQUIRED)
elseif(WAY STREQUAL "subdirectory")
  add_subdirectory(${LORA_SOURCE} lora)
elseif(WAY STREQUAL "fetch")
  include(FetchContent)
  FetchContent_Declare(lora SOURCE_DIR ${LORA_SOURCE})
  FetchContent_MakeAvailable(lora)
endif()
add_executable(program program.cpp)
if(WAY STREQUAL "plain")
  find_package(Eigen3 3.4 REQUIRED)
  set(THREADS_PREFER_PTHREAD_FLAG ON)
  find_package(Threads REQUIRED)
  target_compile_features(program PRIVATE cxx_std_20)
  target_link_libraries(program PRIVATE Eigen3::Eigen Threads::Threads)
else()
  target_link_libraries(program PRIVATE lora::lora)
  if(TARGET lora::io)
    add_executable(reader reader.cpp)
    target_link_libraries(reader PRIVATE lora::io)
  endif()
endif()
set(state "")
foreach(variable CMAKE_BUILD_TYPE CMAKE_CXX_FLAGS CMAKE_CXX_STANDARD CMAKE_MODULE_PATH CMAKE_POSITION_INDEPENDENT_CODE)
  string(APPEND state "${variable}=${${variable}}\n")
endforeach()
file(WRITE ${PROJECT_BINARY_DIR}/state.txt "${state}")
END
cat > "$work/outside/program.cpp" << 'END'
#ifdef __has_include
#if __has_include(<lora/lora.hpp>)
#include <lora/lora.hpp>
#define HAS_LORA
#endif
#endif
#include <cstdio>
int main() {
#ifdef HAS_LORA
  lora::Matrix<float> w = lora::Matrix<float>::Ones(2, 3), x = w, y(2, 2);
  lora::FrozenWeight<float>(w).multiply(x, y);
  std::printf("%g\n", static_cast<double>(y.sum()));
#endif
}
END
cat > "$work/outside/reader.cpp" << 'END'
#include <lora/io/safetensors/safetensors.hpp>
#include <cstdio>
int main() {
  try {
    lora::SafetensorsFile::open("there is no such file");
  } catch (const lora::IoError&) {
    std::puts("refused");
  }
}
END

# The flags of program.cpp's compile and link commands, without folders, files and the compiler's name.
only_flags() {
  awk 'BEGIN { RS = "[ \n]+" }
       NR == 1 || skip { skip = 0; next }
       $0 == "-isystem" || $0 == "-o" || $0 == "-c" { skip = 1; next }
       /^-I/ || /\.o$/ || $0 == "" { next }
       { print }' | sort
}
compile_flags() {
  sed -n '/"command":.*program\.cpp/ { s/.*"command": "//; s/",*$//; p }' "$1/compile_commands.json" | only_flags
}
link_flags() { only_flags < "$1/CMakeFiles/program.dir/link.txt"; }

quiet "$cmake" -S "$work/outside" -B "$work/plain" "${settings[@]}" -DWAY=plain
plain_compile=$(compile_flags "$work/plain") plain_link=$(link_flags "$work/plain")
case "$plain_compile" in *-std=*20*) ;; *) fail "the flags cannot be read: $plain_compile" ;; esac

check_way() {  # <way> [settings ...]
  local way=$1 build=$work/$1
  shift
  quiet "$cmake" -S "$work/outside" -B "$build" "${settings[@]}" "-DWAY=$way" "$@"
  expect "$way: compile flags" "$(compile_flags "$build")" "$plain_compile"
  expect "$way: link flags" "$(link_flags "$build")" "$plain_link"
  expect "$way: variables" "$(cat "$build/state.txt")" "$(cat "$work/plain/state.txt")"
  if [ "$way" != package ]; then
    for option in LORA_BUILD_TESTS LORA_BUILD_BENCH LORA_BUILD_EXAMPLES LORA_BUILD_TOOLS LORA_INSTALL; do
      expect "$way: $option" "$(sed -n "s/^$option:BOOL=//p" "$build/CMakeCache.txt")" OFF
    done
  fi
  quiet "$cmake" --build "$build"
  expect "$way: the program's output" "$("$build/program")" 12
  if [ -e "$build/reader" ]; then expect "$way: the reader's output" "$("$build/reader")" refused; fi
  echo "$way: built and run; flags:" $plain_compile
}
check_way package "-DCMAKE_PREFIX_PATH=$work/prefix" "-DLORA_VERSION=$major.$minor"
for way in subdirectory fetch; do
  check_way "$way" "-DLORA_SOURCE=$source_dir"
  if grep -E '^(LORA_SANITIZE|LORA_WERROR|GTest_DIR|benchmark_DIR)[:-]' "$work/$way/CMakeCache.txt"; then
    fail "$way: settings of lora's own programs reach the cache"
  fi
  targets=$("$cmake" --build "$work/$way" --target help | grep -cE '_test|headers_alone' || true)
  expect "$way: number of lora's tests among the targets" "$targets" 0
  quiet "$cmake" --install "$work/$way" --prefix "$work/$way-installed"
  if [ -e "$work/$way-installed/include/lora" ]; then fail "$way: the outside project's install copies lora"; fi
done

# --- Without nlohmann/json there is no lora::io, and its user is told what to install.
log=$("$cmake" -S "$work/outside" -B "$work/no_json" "${settings[@]}" -DWAY=subdirectory "-DLORA_SOURCE=$source_dir" \
      -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON 2>&1) || fail "without nlohmann/json: $log"
grep -q 'no target lora::io.* apt-get install nlohmann-json3-dev' <<< "$log" || fail "not told what lora::io needs: $log"
quiet "$cmake" --build "$work/no_json"
if [ -e "$work/no_json/reader" ]; then fail "lora::io was made without nlohmann/json"; fi
echo "without nlohmann/json: no lora::io, and a line that says what to install"

# --- Which versions the package answers to.
mkdir "$work/versions"
cat > "$work/versions/CMakeLists.txt" << 'END'
cmake_minimum_required(VERSION 3.22)
project(versions LANGUAGES CXX)
foreach(version IN LISTS ASKED)
  unset(lora_DIR CACHE)
  find_package(lora ${version} QUIET CONFIG)
  file(APPEND ${PROJECT_BINARY_DIR}/answers.txt "${version}:${lora_FOUND}\n")
endforeach()
unset(lora_DIR CACHE)
find_package(lora ${EXACTLY} EXACT QUIET CONFIG)
file(APPEND ${PROJECT_BINARY_DIR}/answers.txt "exactly:${lora_FOUND} ${lora_VERSION}\n")
END
accepted="$major.$minor $major.$minor.0 $version"
refused="$major.$minor.$((patch + 1)) $major.$((minor + 1)) $((major + 1)).0 $((major + 1)).$minor.$patch"
if [ "$minor" -gt 0 ]; then refused="$refused $major.$((minor - 1)).0"; fi
asked=$(echo $accepted $refused | tr ' ' ';')
quiet "$cmake" -S "$work/versions" -B "$work/versions/build" "${settings[@]}" "-DCMAKE_PREFIX_PATH=$work/prefix" \
      "-DASKED=$asked" "-DEXACTLY=$version"
answer() { sed -n "s/^$1://p" "$work/versions/build/answers.txt"; }
for v in $accepted; do expect "find_package(lora $v)" "$(answer "$v" | head -n 1)" 1; done
for v in $refused; do expect "find_package(lora $v)" "$(answer "$v" | head -n 1)" 0; done
expect "find_package(lora $version EXACT)" "$(answer exactly)" "1 $version"
echo "versions: accepted $accepted; refused $refused"
echo "package_test: all passed"
