#!/usr/bin/env bash
# A second language at nano scale: German answers to German and English questions, and English sentences spoken back in
# German (speech-to-speech translation), all speech by espeak-ng. docs/new-language.md explains each step for recordings.
#
#   runs/second_language.sh            the full run; stop it at any time and call it again, it continues where it stopped
#   runs/second_language.sh --smoke    every stage on a handful of items, minutes
#
# Needs: espeak-ng, `pip install -e '.[train,data,eval]'`. Written under out/second_language (smoke: out/smoke_second_language).
# Stages that do not change with the language are nano's recipes with other paths. Measured: 71 CPU-minutes of one core.
set -euo pipefail

source "$(dirname "$0")/stages.sh"
begin out/second_language out/smoke_second_language "$@"
few=(training.steps=3 training.warmup_steps=1 training.evaluate_every_steps=0 training.save_every_steps=3 training.sample_every_steps=0)

# 1. Corpus: questions in two languages, answers in one. The table is recipes/new_language/facts_de.yml.
stage corpus new_language/corpus facts="$repository/recipes/new_language/facts_de.yml" -- max_items=6 \
  shuffled_sentences=20
# 2. Text LLM: answers in writing.
stage lm nano/lm data.dialogues=$out/text/dialogues.jsonl training.output_dir=$out/lm data.topic_temperature=1.0 \
  tokenizer.vocab_size=1024 training.steps=1500 -- "${few[@]}" tokenizer.vocab_size=300
# 3. Speech encoder: both languages, and the answers' voice, which it will align. Phones are letters.
stage encoder nano/encoder "data.manifests=[$out/speech/questions.jsonl, $out/speech/replies.jsonl]" \
  data.phones=$out/phones.json data.tokenizer=$out/tokenizer data.dialogues=$out/text/dialogues.jsonl data.vocab_size=1024 \
  training.output_dir=$out/encoder training.steps=4000 -- "${few[@]}" data.vocab_size=300 training.batch_size=800
# 4. Where the words of the reply voice end.
stage align new_language/align -- keep_going=true
# 5. Units, unit language, vocoder: a voice from its recordings alone.
stage units new_language/units -- "${few[@]}" clusters.num_units=32 training.batch_size=800
stage unit_language new_language/unit_language -- model.vocabulary_size=60 model.min_count=1
stage vocoder new_language/vocoder -- "${few[@]}" training.batch_size=200 data.evaluate_items=2
# 6. Stage I, stage II, stage III.
stage s2t nano/s2t "data.manifests=[$out/speech/dialogues.jsonl]" model.speech_encoder=$out/encoder \
  model.language_model=$out/lm training.output_dir=$out/s2t -- "${few[@]}" training.batch_size=4 data.evaluation_items=2
stage t2c new_language/t2c -- "${few[@]}" training.batch_size=4
stage echo nano/echo "data.speech=[$out/speech/dialogues.jsonl]" "data.text=[$out/text/dialogues.jsonl]" model.s2t=$out/s2t \
  model.t2c=$out/t2c model.vocoder=$out/vocoder training.output_dir=$out/echo -- "${few[@]}" training.batch_size=4 \
  data.evaluation_items=2 data.samples=1 targets.max_unit_words=32 targets.allow_silence=true
# 7. One folder.
stage package nano/package parts.echo=$out/echo parts.vocoder=$out/vocoder output_dir=$out/package \
  generation.spoken_language=de \
  "parts.records=[$out/lm, $out/encoder, $out/units, $out/vocoder, $out/s2t, $out/t2c, $out/echo]"
# 8. A judge of the reply voice: the speech encoder of step 3, trained further on recordings only, never on speech from units.
stage judge nano/judge "data.manifests=[$out/speech/replies.jsonl]" data.phones=$out/phones.json data.tokenizer=$out/tokenizer \
  data.dialogues=$out/text/dialogues.jsonl data.vocab_size=1024 model.start_from=$out/encoder training.output_dir=$out/judge \
  -- "${few[@]}" data.vocab_size=300 training.batch_size=800
# 9. Measured on held-out questions, written replies and transcripts of the judge: answers to German and to English questions
#    (right: every word of the reply), and BLEU of the translations. JUDGE=openai/whisper-large-v3 names another judge.
"$python" - "$out" <<'PY'
import json, sys
from pathlib import Path
from echox.data.manifest import read_dialogues
out = Path(sys.argv[1])
rows = {"german": [], "english": [], "translation": []}
for one in read_dialogues(out / "speech" / "dialogues.jsonl"):
    if one.split != "train":
        asked, reply = one.turns
        row = {"id": one.id, "audio": f"speech/{asked.audio}", "question": asked.text}
        if one.topic.endswith("uebersetzung"):
            rows["translation"].append(row | {"translation": reply.text})
        else:
            rows["german" if one.topic.startswith("de/") else "english"].append(row | {"answers": [reply.text.rstrip(".")]})
for name, found in rows.items():
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
PY
limit=()
$smoke && limit=(--limit 2)
for questions in german english translation; do
  [ -s $out/$questions.jsonl ] || { echo "== $questions: so few items that none is held out"; continue; }
  task=qa
  [ $questions = translation ] && task=translation
  "$python" -m echox eval run --task $task --data $out/$questions.jsonl --model $out/package --judge "${JUDGE:-$out/judge}" \
    --lexicon $out/phones.json --output $out/eval/$questions "${limit[@]}"
done
