#!/usr/bin/env bash
# Fails when a test is skipped that may_skip.txt does not list, or when a listed name is no test's:
# bash tests/skipped.sh RESULTS, which ctest --output-junit wrote.
set -euo pipefail
tests=$(dirname "$0")
failed=0
patterns=()
while read -r pattern _; do
  case $pattern in '' | '#'*) continue ;; esac
  patterns+=("$pattern")
  [[ $pattern == *'*'* ]] || grep -rqwE --include='*_test.cpp' "(DISABLED_)?${pattern#*.}" "$tests" ||
    { echo "tests/may_skip.txt lists $pattern, which is no test"; failed=1; }
done <"$tests/may_skip.txt"

is_listed() {
  local pattern
  for pattern in "${patterns[@]}"; do
    # shellcheck disable=SC2053  # the list has patterns
    if [[ $1 == $pattern ]]; then return 0; fi
  done
  return 1
}

grep -q '<testcase' "$1" || { echo "$1 has no test"; exit 1; }
# What did not run is <testcase name="..." status="notrun">, or "disabled".
while IFS= read -r name; do
  is_listed "$name" || { echo "skipped, and not listed in tests/may_skip.txt: $name"; failed=1; }
done < <(sed -n '/status="\(notrun\|disabled\)"/s/.*<testcase name="\([^"]*\)".*/\1/p' "$1")
exit $failed
