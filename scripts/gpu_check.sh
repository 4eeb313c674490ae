#!/usr/bin/env bash
# Ten minutes of a GPU: tests, then 3B and 8B with random weights (nothing is downloaded), then steps of training.
#
#   scripts/gpu_check.sh [FOLDER]           on a GPU; FOLDER (default: $OUT, else out/gpu_check) gets a JSON file a step
#   scripts/gpu_check.sh --tiny [FOLDER]    the same steps on a CPU, a model of 0.1 B: is the script sound? minutes
#   STEPS="tests 8b" scripts/gpu_check.sh   these only
#   BUNDLES=out/gpu_bundles                 folder of scripts/pack_mini.py: 300 steps (MINI_STEPS) of mini's T2C and vocoder
#
# Each step stands alone, in a process of its own with a time limit; FOLDER/steps.jsonl has a line for each as soon as it has
# ended, so a machine that is taken away loses only the running one. docs/scaling.md says how to read the results.
set -uo pipefail
cd "$(dirname "$0")/.."
tiny=false
if [ "${1:-}" = --tiny ]; then tiny=true; shift; fi
folder=${1:-${OUT:-out/gpu_check}}
mkdir -p "$folder"
python=.venv/bin/python
[ -x "$python" ] || python=python
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
failed=0

# step NAME LIMIT_S COMMAND ...: run it if STEPS has it or is empty; note its exit status and seconds.
step() {
  local name=$1 limit_s=$2 began_s=$SECONDS status=0
  shift 2
  case " ${STEPS:-$name} " in *" $name "*) ;; *) return 0 ;; esac
  timeout --kill-after=10 "$limit_s" "$@" >"$folder/$name.log" 2>&1 || status=$?
  printf '{"step": "%s", "status": %d, "seconds": %d}\n' "$name" "$status" $((SECONDS - began_s)) | tee -a "$folder/steps.jsonl"
  if [ "$status" != 0 ]; then failed=1; tail -n 15 "$folder/$name.log"; fi
}
bench() { # bench NAME LIMIT_S BENCHMARK ...
  local name=$1 limit_s=$2 benchmark=$3
  shift 3
  step "$name" "$limit_s" "$python" "benchmarks/$benchmark.py" "$@" --output "$folder/$name.json"
}

if $tiny; then
  step tests 300 "$python" -m pytest -q -p no:cacheprovider tests/streaming/test_devices.py -m "not gpu"
  bench 8b 300 decoding --size small --batch 1 --tokens 32 --sessions 1 --threads 1
  for stage in s2t t2c echo; do
    bench "train_$stage" 300 training_step --size small --stage $stage --batch-size 2 --tokens 48 --audio-s 1 --steps 1
  done
else
  gpu=(--device cuda)
  step tests 100 "$python" -m pytest -q -p no:cacheprovider tests -m gpu
  bench 8b 100 decoding --size 8b "${gpu[@]}" --dtype bfloat16 --batch 1 16 --sessions 1 16
  bench 3b 60 decoding --size 3b "${gpu[@]}" --dtype bfloat16 --batch 1 16 --sessions 1 16
  for stage in s2t echo t2c; do
    bench "train_$stage" 45 training_step --size 3b --stage $stage "${gpu[@]}"
  done
  bench 8b_compiled 120 decoding --size 8b "${gpu[@]}" --dtype bfloat16 --batch 1 --sessions 1 16 --compile
  bench train_s2t_compiled 90 training_step --size 3b --stage s2t "${gpu[@]}" --compile
fi
for part in t2c vocoder; do # mini itself, where its bundle is
  bundle=${BUNDLES:-out/gpu_bundles}/$part
  if [ -d "$bundle" ]; then
    step "mini_$part" 55 "$python" -m echox run "$bundle/$part.yaml" "training.output_dir=$folder/mini_$part" \
      training.log_every_steps=20 training.resume=false "training.steps=${MINI_STEPS:-300}"
  fi
done
exit $failed
