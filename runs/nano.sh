#!/usr/bin/env bash
# The embedded nano model, from scratch: every stage of EchoX at a size that two CPU cores can train.
#
#   runs/nano.sh            the full run; stop it at any time and call it again, it continues where it stopped
#   runs/nano.sh --smoke    every stage on a handful of items, under five minutes (run in CI)
#
# Needs: flite and espeak-ng (Debian packages), `pip install -e '.[train,data,eval]'`. The same commands use a GPU where
# there is one. Everything is written under out/nano (full) or out/smoke/out/nano (smoke): text and seeds are the only
# inputs, all speech is synthesised in the run. Measured costs are on 2 cores of an AMD EPYC (AVX512-BF16), one stage
# per core unless noted; docs/experiments.md has the log and docs/model_card_nano.md the figures.
set -euo pipefail

source "$(dirname "$0")/stages.sh"
begin out/nano out/smoke "$@"
few=(training.steps=4 training.warmup_steps=1 training.evaluate_every_steps=0 training.save_every_steps=2 training.sample_every_steps=0)

# 1. Corpus: questions and replies as text, spoken by flite and espeak-ng voices: 16 h. 20 min on both cores.
stage corpus nano/corpus -- smoke=true
# 2. Text LLM: answers in writing; all knowledge of nano is learned here. 15 CPU-min.
stage lm nano/lm -- "${few[@]}"
# 3. Speech encoder: Whisper's architecture, CTC on the language model's tokens and on phones. 46 CPU-min;
stage encoder nano/encoder -- "${few[@]}"
#    a second training with more variation, for new voices: 22 CPU-min;
stage encoder_voices nano/encoder_voices -- "${few[@]}"
#    one on the reply voice, to judge replies (never on resynthesised speech): 5 CPU-min.
stage judge nano/judge -- "${few[@]}"
# 4. Units: k-means on a small encoder of the reply voice, 4 CPU-min and as much again to apply it.
# 5. Unit language: words of units, which nano does not use (docs/ablations.md, row c). Seconds.
stage units nano/units -- "${few[@]}"
stage unit_language nano/unit_language
# 6. Vocoder: units to waveform. 21 CPU-min.
stage vocoder nano/vocoder -- "${few[@]}"
# 7. Stage I, S2T: adapters, CTC head and LoRA; speech to text. 6 CPU-min.
stage s2t nano/s2t -- "${few[@]}"
# 8. Stage II, T2C: text to units; word-synchronous, since the paper's form (t2c_prefix.yaml) measured 15.1% WER
#    against 9.0% (docs/experiments.md), and for 2,400 steps only (t2c.yaml says why). 3 CPU-min.
stage t2c nano/t2c -- "${few[@]}"
# 9. Stage III, Echo: speech targets from the model's own replies; speech to speech. 4 CPU-min.
stage echo nano/echo -- "${few[@]}" targets.allow_silence=true
#     It learns to greet when it is told to. 7 CPU-min.
stage greetings nano/greetings -- "${few[@]}"
# 10. One folder, matrices in 8 bits, with its record; copied to src/echox/assets/nano it is the embedded model. Seconds.
stage package_before nano/package output_dir=out/nano/package_before
#     Its vocoder learns to wait for less, from the model's own replies. 8 CPU-min.
stage vocoder_lookahead nano/vocoder_lookahead -- "${few[@]}" data.replies=4 data.heldout_replies=2 model.start_from=nano
stage package nano/package parts.vocoder=out/nano/vocoder_lookahead \
  "parts.records=[out/nano/package_before,out/nano/vocoder_lookahead]" -- parts.vocoder=out/nano/vocoder
#     Into it, the turn head: when is a question complete? And what every server has: "stop" told from "mm-hmm". 6 CPU-min.
stage turn_head nano/turn_head model=out/nano/package output=null -- model=nano output=out/nano/turn_head "texts.corpora={nano: 60}" steps=50
stage interjections nano/interjections -- count=60 "voices={flite/slt: 1, espeak-ng/en-us: 1}"
# 11. Measured: the scorecard, the voice step by step, latency on one thread, what surrounds a question;
#     then the model card is written. 10 min.
evaluation=out/nano/eval
items=() few_conditions=() questions=(--model out/nano/package --data out/nano)
# A model of a few steps understands nothing: the smoke run times the embedded one, on the bundled questions.
$smoke && items=(--limit 2) few_conditions=(--questions 1 --quick) questions=(--model nano --warm-up 0)
"$python" -m echox eval run --task nano --model out/nano/package --data out/nano --judge out/nano/judge --output "$evaluation" "${items[@]}"
"$python" -m echox eval voice --data out/nano --output "$evaluation" "${items[@]}"
"$python" "$repository/benchmarks/nano_latency.py" "${questions[@]}" --threads 1 --output "$evaluation/latency.json"
"$python" "$repository/benchmarks/hearing_conditions.py" --model out/nano/package --data out/nano "${few_conditions[@]}" \
  --output "$evaluation/conditions.json"
"$python" -m echox eval card --model out/nano/package --metrics "$evaluation/metrics.json" --voice "$evaluation/voice.json" \
  --latency "$evaluation/latency.json" --conditions "$evaluation/conditions.json" --output "$evaluation/model_card_nano.md"
