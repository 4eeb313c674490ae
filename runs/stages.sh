#!/usr/bin/env bash
# For the scripts beside it, which source it: stages of a nano-sized run, each done once; with --smoke in small and elsewhere.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
[ -x "$repository/.venv/bin/python" ] && python=${PYTHON:-$repository/.venv/bin/python}

# begin OUT SMOKE_PLACE [--smoke]: sets smoke and out, and goes to where the recipes' relative paths begin: the repository, or
# for a smoke run SMOKE_PLACE in it, emptied, so that the full run is left alone.
begin() {
  out=$1 smoke=false
  local place=$repository
  case "${3:-}" in
    "") ;;
    --smoke)
      smoke=true
      place=$repository/$2
      rm -rf "$place" && mkdir -p "$place"
      ;;
    *) echo "usage: $0 [--smoke]" >&2; exit 2 ;;
  esac
  cd "$place"
  mkdir -p "$out"
}

# stop_if_asked: ends the script where the file appeared that asks runs to stop: under torchrun they end without an error, and what
# follows would take what they left for finished.
stop_if_asked() {
  [ -n "${ECHOX_STOP_FILE:-}" ] && [ -e "$ECHOX_STOP_FILE" ] || return 0
  echo "asked to stop ($ECHOX_STOP_FILE): run it again to continue" >&2
  exit 75
}

# stage NAME RECIPE [overrides ...] [-- overrides for the smoke run ...]: runs one recipe unless its mark says it is finished.
stage() {
  local name=$1 recipe=$2 mark=$out/.done-$1 chosen=() small=false
  shift 2
  for override in "$@"; do
    if [ "$override" = -- ]; then small=true; elif ! $small || $smoke; then chosen+=("$override"); fi
  done
  if [ -e "$mark" ]; then echo "== $name: finished before"; return; fi
  echo "== $name"
  local started=$SECONDS
  "$python" -m echox run "$repository/recipes/$recipe.yaml" ${chosen[@]+"${chosen[@]}"}
  stop_if_asked
  echo "== $name: $((SECONDS - started)) s"
  touch "$mark"
}
