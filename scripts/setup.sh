#!/usr/bin/env bash
# Set-up for make: a virtual environment in .venv with every dependency at its pinned version, checked by hash.
#
#   scripts/setup.sh core    what answering aloud needs (make demo)
#   scripts/setup.sh serve   the above, and the server (make serve)
#   scripts/setup.sh dev     the above, and training, data, tests and linters (make test)
#
# A stamp in .venv remembers what was installed, from which pins, where and for which interpreter; while it fits, only torch
# is looked at, which depends on the GPU. The parts of model mini have their own stamp: while it is missing, each set-up
# tries to install them.
# PYTHON=/path/to/python chooses the interpreter of a new environment.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:?expected core, serve or dev}
case $kind in  # a kind, and those that contain it
  core) containing='core serve dev' ;;
  serve) containing='serve dev' ;;
  dev) containing=dev ;;
  *) echo "setup: expected core, serve or dev, found '$kind'" >&2; exit 2 ;;
esac

case "$(uname -s) $(uname -m)" in  # those that torch is built for
  "Linux x86_64" | "Linux aarch64" | "Darwin arm64") ;;
  *)
    echo "setup: expected Linux (x86_64 or aarch64), macOS on Apple silicon, or Windows by WSL2, found $(uname -s)" \
      "$(uname -m), for which there is no PyTorch of this version; docs/quickstart.md has more" >&2
    exit 1
    ;;
esac

# What the environment is for and by which interpreter, which is started: one that is gone or was replaced fits no stamp.
interpreter() {
  .venv/bin/python -c 'import os, sys; print(sys.implementation.cache_tag, os.uname().machine)' 2>/dev/null || echo none
}

# Content, not dates, so that a fresh checkout of the same files is not a new set-up; the folder, because moving breaks .venv.
fingerprint() { { cat pyproject.toml requirements/*.txt scripts/setup.sh scripts/install_*.sh; pwd; interpreter; } | cksum; }
fitting=$(fingerprint)
stamped() { [ "$(cat ".venv/.stamp-$1" 2>/dev/null)" = "$fitting" ]; }

# --no-compile: Python compiles what is imported; compiling all of torch costs half a minute.
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

# The parts that the embedded model "mini" stands on; without them "nano" answers.
parts_of_mini() {  # options of pip
  if [ ! -f src/echox/assets/mini/parts.json ]; then return; fi
  if scripts/install_mini.sh .venv/bin/python "$@"; then
    fingerprint >.venv/.stamp-mini
  else
    echo "setup: the parts of model mini could not be installed; nano answers in its place, the next set-up tries again" >&2
  fi
}

hasty='-qq --retries 0 --timeout 5'  # somebody waits for a program that can run without
for other in $containing; do
  if stamped "$other"; then
    scripts/install_torch.sh .venv/bin/python $hasty
    stamped mini || parts_of_mini $hasty
    exit 0
  fi
done

usable() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10 python; do
    if usable "$candidate"; then command -v "$candidate"; return; fi
  done
  echo "setup: expected Python 3.10 to 3.13, found $(python3 --version 2>&1 || echo none); install one, or name it:" \
    "make PYTHON=/path/to/python3.12 ..." >&2
  return 1
}

started=$SECONDS
if ! usable .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  python=$(find_python)
  echo "setup: $("$python" --version) -> .venv (some minutes, once)"
  if ! "$python" -m venv --clear .venv; then
    echo "setup: $python cannot make a virtual environment; install its venv module (Debian: apt install python3-venv)" >&2
    exit 1
  fi
fi

scripts/install_torch.sh .venv/bin/python

# Nothing is resolved: the locks (scripts/lock.sh) name every package with its version and hashes.
echo "setup: installing the pinned dependencies ($kind)"
pip install --no-compile --no-deps --require-hashes -r "requirements/$kind.txt"
parts_of_mini
pip install --no-compile --no-deps --no-build-isolation -e .
fingerprint >".venv/.stamp-$kind"
echo "setup: done in $((SECONDS - started)) s"
