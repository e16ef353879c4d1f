# The comparisons with Python's libraries source this file from the repository's root.

venv=${VENV:-.venv-bench}

# set_up TARGET PACKAGE...: installs the Python packages that the virtual environment lacks (and creates
# it if it does not exist), and builds the benchmark.
set_up() {
  local target=$1 package missing=()
  shift
  . cmake/install_packages.sh
  install_packages g++ cmake make libeigen3-dev nlohmann-json3-dev libbenchmark-dev python3-venv
  for package in "$@"; do
    "$venv/bin/python" -c "import importlib.util; assert importlib.util.find_spec('$package')" 2> /dev/null ||
      missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "installing in $venv: ${missing[*]}"
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "${missing[@]}"
  fi
  cmake --preset bench > /dev/null
  cmake --build --preset bench -j "$(nproc)" --target "$target" > /dev/null
}

# peer SCRIPT ARGUMENT...: prints what the other side's script prints. A failure ends the caller with its message.
peer() {
  local said
  said=$(mktemp)
  if "$venv/bin/python" "$@" 2> "$said"; then
    rm -f "$said"
  else
    cat "$said" >&2
    rm -f "$said"
    echo "$1 failed" >&2
    return 1
  fi
}

# expect_numbers WHAT NUMBER...: ends the script unless every NUMBER is positive.
expect_numbers() {
  local what=$1 number
  shift
  for number in "$@"; do
    if ! [[ $number =~ ^[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$ ]] || [[ $number =~ ^[0.]*$ ]]; then
      echo "$what: measured '$number', expected a positive number" >&2
      exit 1
    fi
  done
}

# least NUMBER...: prints the least.
least() { printf '%s\n' "$@" | sort -g | head -1; }
