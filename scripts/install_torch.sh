#!/usr/bin/env bash
# Install the pinned torch into an environment: scripts/install_torch.sh PYTHON [OPTIONS OF PIP]
#
# On Linux the torch of PyPI brings gigabytes of CUDA. Without a GPU that it can use, take the CPU build: from wherever pip
# is told to look, or from PyTorch's own index, whose hashes pip checks. --no-deps keeps that index out of every other
# package; short patience, should it be out of reach. Where such a GPU came since, the CPU build is replaced.
set -euo pipefail
python=$1
shift
locks=$(cd "$(dirname "$0")/../requirements" && pwd)
torch=$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' "$locks/torch.txt")
least_capability=7.5 least_driver=580  # of CUDA 13: GPUs since Turing; docs.nvidia.com/cuda/cuda-toolkit-release-notes

pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }
of_pypi() { pip install --no-compile --no-deps --require-hashes -r "$locks/torch.txt" "$@"; }

gpus() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null; }

# Whether the pinned torch can use a GPU of this machine; where it can use none, they are named.
usable_gpu() {
  local listed name capability driver unused=
  listed=$(gpus name,compute_cap,driver_version || gpus name,driver_version | sed 's/,/, unknown,/')  # of an old driver
  while IFS=, read -r name capability driver; do
    capability=${capability// /} driver=${driver// /}
    if [ "${capability/./}" -ge "${least_capability/./}" ] && [ "${driver%%.*}" -ge "$least_driver" ]; then return 0; fi
    unused+="setup: $name is not used: $torch expects compute capability $least_capability and driver $least_driver or"
    unused+=" newer, found $capability and $driver"$'\n'
  done 2>/dev/null < <(grep , <<<"$listed")
  printf %s "$unused" >&2
  return 1
}

installed=$("$python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' 2>/dev/null || true)
if [ "$installed" != "$torch+cpu" ] && [ "${installed%%+*}" = "$torch" ]; then exit 0; fi

if [ "$(uname -s)" = Linux ] && ! usable_gpu; then
  if [ "$installed" = "$torch+cpu" ]; then exit 0; fi
  echo "setup: $torch for the CPU"
  pip install --no-compile --no-deps "$torch+cpu" --extra-index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 15 && exit 0
  echo "setup: no CPU build of $torch in reach; trying the one of PyPI, a far larger download" >&2
fi
if [ "$installed" = "$torch+cpu" ]; then
  echo "setup: $torch for the GPU of this machine, in place of the CPU build (gigabytes, once)"
  of_pypi --force-reinstall "$@" ||  # "2.13.0+cpu" is a 2.13.0 to pip
    echo "setup: the build of $torch for the GPU could not be installed; the CPU answers, the next set-up tries again" >&2
else
  of_pypi "$@"
fi
