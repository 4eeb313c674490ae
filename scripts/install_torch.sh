#!/usr/bin/env bash
# Install the pinned torch into an environment: scripts/install_torch.sh PYTHON
#
# On Linux the torch of PyPI brings gigabytes of CUDA. Without a GPU, take the CPU build: from wherever pip is told to look,
# or from PyTorch's own index, whose hashes pip checks. --no-deps keeps that index out of every other package; short
# patience, should it be out of reach.
set -euo pipefail
python=$1
locks=$(cd "$(dirname "$0")/../requirements" && pwd)
torch=$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' "$locks/torch.txt")

if "$python" -c "
from importlib.metadata import version
assert 'torch==' + version('torch').split('+')[0] == '$torch'" 2>/dev/null; then exit 0; fi

pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }

if [ "$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then
  echo "setup: $torch for the CPU"
  pip install --no-compile --no-deps "$torch+cpu" --extra-index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 15 && exit 0
  echo "setup: no CPU build of $torch in reach; trying the one of PyPI, a far larger download" >&2
fi
pip install --no-compile --no-deps --require-hashes -r "$locks/torch.txt"
