#!/usr/bin/env bash
# Whether programs that include the library as ordinary headers compile without a warning at -O0 to -O3: the README's
# program by default, with "all" all of examples/ and tools/. Each level of each program takes up to minutes.
#   CXX=clang++ LEVELS="0 3" bash tests/structure/warnings.sh [all | PROGRAM...]
set -euo pipefail
cd "$(dirname "$0")/../.."
compiler=${CXX:-g++} eigen=${EIGEN3_INCLUDE_DIR:-/usr/include/eigen3}
programs=("$@")
[ $# -gt 0 ] || programs=(examples/quickstart)
[ "${1:-}" != all ] || programs=(examples/{quickstart,own_model,adapt_digits}
  tools/{commands,file_commands,model_commands,text_commands,make_base})
failed=0
for program in "${programs[@]}"; do
  for level in ${LEVELS:-0 1 2 3}; do
    if "$compiler" -std=c++20 -O"$level" -DNDEBUG -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -Iinclude \
        -DLORA_VERSION='"0"' \
        -isystem "$eigen" -c "$program.cpp" -o /dev/null; then
      echo "$program -O$level: silent"
    else
      echo "$program -O$level: warns"
      failed=1
    fi
  done
done
exit $failed
