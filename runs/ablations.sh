#!/usr/bin/env bash
# The paper's claims, one at a time, at nano scale: runs/ablations.yaml says what is trained, docs/ablations.md what came out.
#
#   runs/ablations.sh            all of it, about two CPU-hours on one thread; stop it at any time and call it again: finished
#                                trainings and measurements are not repeated, and seed 0 of every run comes before any seed 1
#   runs/ablations.sh --smoke    one run of each kind for two steps and two questions, two CPU-min
#
# Needs: the outputs of runs/nano.sh (out/nano); --smoke also works with those of runs/nano.sh --smoke. What the runs start from
# and runs/nano.sh does not make is made here first: a unit language of 1,000 words, and a T2C on it, word-synchronous and in
# the paper's form (7 CPU-min each). Everything else is written under out/ablations (or out/smoke/ablations); the full run then
# renews docs/ablations.md, docs/ablations.json and docs/images/ablations_*.png.
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

# base NAME RECIPE [overrides ...]: what runs start from, made unless it is there.
base() {
  local folder=out/nano/$1 recipe=$2
  shift 2
  [ -e "$folder/training_record.json" ] || "$python" -m echox run "$repository/recipes/nano/$recipe.yaml" "$@"
}
words=out/nano/unit_language_1000
base unit_language_1000 unit_language model.vocabulary_size=1000 output_dir=$words
base t2c_unit_language t2c data.unit_language=$words training.output_dir=out/nano/t2c_unit_language training.steps=8000 "${few[@]}"
base t2c_prefix t2c_prefix data.unit_language=$words "${few[@]}"
# It may run for hours beside other work: one thread, and low priority.
OMP_NUM_THREADS=1 nice -n 15 "$python" -m echox.evaluation.studies.ablations "$repository/runs/ablations.yaml" "${few[@]}" "${options[@]}"
