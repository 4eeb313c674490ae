#!/usr/bin/env bash
# The paper's claims, one at a time, at nano scale: runs/ablations.yaml says what is trained, docs/ablations.md what came out.
#
#   runs/ablations.sh            all of it, about two CPU-hours on one thread; stop it at any time and call it again: what was
#                                trained or measured is not repeated, and seed 0 of every run comes before any seed 1
#   runs/ablations.sh --smoke    one run of each kind for two steps and two questions, under two minutes
#
# Needs: the outputs of runs/nano.sh (out/nano); --smoke is content with those of runs/nano.sh --smoke. One stage alone that
# runs/nano.sh does not run is trained here first: the T2C in the paper's form (7 CPU-min). Everything is written under
# out/ablations (or out/smoke/ablations); the full run then renews docs/ablations.json and docs/images/ablations_*.png.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
[ -x "$repository/.venv/bin/python" ] && python=${PYTHON:-$repository/.venv/bin/python}

cd "$repository"
options=(--output out/ablations --report docs)
few=()
case "${1:-}" in
  "") ;;
  --smoke)
    [ -d out/smoke/out/nano/echo ] && cd out/smoke  # recipes name their folders relative to where they are run
    rm -rf "$repository/out/smoke/ablations"
    kinds=cascade,echo,prefix,no_adapter,context_words,t2c_units,t2c_bpe,adapter_frame_wise
    options=(--output "$repository/out/smoke/ablations" --report "$repository/out/smoke/ablations" --limit 2 --seeds 1 --only "$kinds")
    few=(training.steps=2 training.batch_size=4 training.warmup_steps=1)
    ;;
  *) echo "usage: runs/ablations.sh [--smoke]" >&2; exit 2 ;;
esac
[ -d out/nano/echo ] || { echo "error: expected out/nano/echo, found none; run runs/nano.sh first" >&2; exit 1; }

if [ ! -e out/nano/t2c_prefix/training_record.json ]; then
  "$python" -m echox train "$repository/recipes/nano/t2c_prefix.yaml" "${few[@]}"
fi
# It may run for hours beside other work: one thread, and polite.
OMP_NUM_THREADS=1 nice -n 15 "$python" -m echox.evaluation.ablations "$repository/runs/ablations.yaml" "${few[@]}" "${options[@]}"
