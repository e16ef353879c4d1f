# Sourced by the comparisons with Python's libraries, from the repository's root.

venv=${VENV:-.venv-bench}

# set_up TARGET PACKAGE...: installs those Python packages that the virtual environment lacks (it is
# made when it is not there), and builds that benchmark.
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

# least NUMBER...
least() { printf '%s\n' "$@" | sort -g | head -1; }
