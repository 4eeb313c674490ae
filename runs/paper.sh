#!/usr/bin/env bash
# The paper's model, from public corpora to its tables: EchoX-3B (or 8B) on one node of 8 GPUs, or several.
#
#   runs/paper.sh --dry-run            print every command, and check that every recipe loads; runs nothing
#   runs/paper.sh                      the run (EchoX-3B); stop it at any time and call it again, it continues where it stopped
#   runs/paper.sh --rehearse [FOLDER]  the whole road in minutes: two nodes simulated here, tiny sizes, no downloads, killed jobs
#   SIZE=8b runs/paper.sh              EchoX-8B; corpora, units and unit language are shared with 3B
#   NODES=4 NODE_RANK=0 MASTER=host runs/paper.sh   on each of 4 nodes, with its rank. All nodes must see one file system:
#                                      the others wait there until the first has prepared what comes before each training
#
# It was never run as a whole: there was no such cluster. Each stage is the one that trains nano, with other numbers. The
# GPU-hours below are a model, not a measurement (scripts/paper_costs.py, docs/scaling.md): 8 H100, 35 % of the peak in the
# language model, 0.03 to 0.15 s besides for each micro-batch.
#   storage   0.4 TB of recordings (FLAC; several times that while archives are unpacked), 0.3 TB of shards (FLAC again) on
#             a disk that all nodes read, or in an object store, 2 GB of units, 6 GB for each checkpoint of stage I
#   network   0.4 to 1 TB of downloads; in training gradients of 0.5 G weights a step (2 GB: NVLink, or 100 Gb/s between nodes)
# Licences: several corpora do not state one, Llama has its own. `echox data corpora` lists them: read them first.
set -euo pipefail

source "$(dirname "$0")/stages.sh"
cd "${WORK:-$repository}"
size=${SIZE:-3b}
recipes=${RECIPES:-$repository/recipes}
[ -d "$recipes/$size" ] || { echo "SIZE: expected 3b or 8b, found $size" >&2; exit 2; }
raw=${RAW:-out/paper/raw}   # archives as they were downloaded
nodes=${NODES:-1} rank=${NODE_RANK:-0} gpus=${GPUS:-8} master=${MASTER:-localhost}
# torch 2.13 otherwise waits, after a restart, for processes that have ended (docs/training.md).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
dry=false
case "${1:-}" in
  "") ;;
  --dry-run) dry=true ;;
  --rehearse) exec "$python" "$repository/scripts/paper_rehearsal.py" "${@:2}" ;;
  *) echo "usage: [SIZE=3b|8b] runs/paper.sh [--dry-run | --rehearse [FOLDER]]" >&2; exit 2 ;;
esac

# once NAME COMMAND ...: on the first node, unless it was done before; the other nodes wait for its mark. Without this they
# would start torchrun days too early, which gives up after half an hour. A failure on the first node ends the others too.
once() {
  local name=$1 mark=out/paper/.done-$1
  shift
  if $dry; then printf '%q ' "$@"; echo; return; fi
  if [ "$rank" != 0 ]; then wait_for "$name" "$mark"; return; fi
  if [ -e "$mark" ]; then echo "== $name: finished before"; return; fi
  echo "== $name: $*"
  "$@" || { echo "$name" > out/paper/.failed; echo "== $name: failed" >&2; exit 1; }
  stop_if_asked
  touch "$mark"
}
wait_for() {
  local name=$1 mark=$2 waited_s=0
  while [ ! -e "$mark" ]; do
    # Only a failure since this node was started counts: an older one is of a run before.
    if [ out/paper/.failed -nt "$here" ]; then
      echo "== $(cat out/paper/.failed): failed on the first node" >&2
      exit 1
    fi
    stop_if_asked
    [ $((waited_s % 600)) != 0 ] || echo "== $name: waiting for the first node (${waited_s} s)"
    sleep "${POLL_S:-10}"
    waited_s=$((waited_s + ${POLL_S:-10}))
  done
}
if ! $dry; then
  mkdir -p out/paper
  here=out/paper/.started-$rank
  touch "$here"
fi
# prepare NAME: a recipe that makes something; train NAME: a recipe that trains, on all GPUs of all nodes. A finished run is
# not repeated, a killed one continues from its newest checkpoint (torchrun starts it again by itself, three times).
named=()
prepare() {
  local recipe=$recipes/$1.yaml
  named+=("$recipe")
  once "${1//\//-}" "$python" -m echox run "$recipe"
}
train() {
  local recipe=$recipes/$1.yaml
  shift
  # The nodes agree on every restart (c10d): with fixed addresses each starts again by itself, and finds processes that have ended.
  local host=0
  [ "$rank" != 0 ] || host=1
  local command=("$python" -m torch.distributed.run --nnodes "$nodes" --nproc-per-node "$gpus" --max-restarts 3
    --rdzv-backend c10d --rdzv-id "echox-$(basename "$recipe" .yaml)" --rdzv-endpoint "$master:${PORT:-29500}"
    --rdzv-conf "is_host=$host" -m echox.training.loop "$recipe" "$@")
  named+=("$recipe")
  if $dry; then echo "${command[*]}"; return; fi
  echo "== ${command[*]}"
  "${command[@]}"
  stop_if_asked
}

# 1. Corpora: 6,200 h. A day, by the network. Each is fetched (and continues where it stopped), checked item by item and written as
#    manifests; damaged items are listed in damaged.jsonl. Put a corpus that needs an application into $raw/NAME by hand.
for corpus in librispeech mls-english sharechatx magpie-speech audioqa hh-rlhf-speech; do
  limit=()
  [ $corpus = mls-english ] && limit=(--limit 725000)   # the paper takes 3,000 of its 44,500 h; a recording has about 15 s
  once "download-$corpus" "$python" -m echox data download $corpus "$raw/$corpus"
  once "import-$corpus" "$python" -m echox data import $corpus "$raw/$corpus" "out/paper/$corpus" --keep-going "${limit[@]}"
done
for corpus in librispeech mls-english; do   # recordings as a task: transcription
  once "recognition-$corpus" "$python" "$repository/scripts/paper_manifests.py" recognition "out/paper/$corpus"
done
# Checked, and packed into shards, which every process of every node reads where they are. 4,465 h on a machine of 32 cores: some
# hours, by the figures of docs/data.md.
for corpus in librispeech mls-english sharechatx magpie-speech; do
  once "shards-$corpus" "$python" -m echox run "$recipes/3b/dialogue_shards.yaml" \
    "inputs=[{dialogues: out/paper/$corpus/dialogues.jsonl}]" "output_dir=out/paper/shards/$corpus"
done

# 2. The language model, prepared for speech: 10 minutes. All stages read this one folder.
prepare "$size/language_model"

# 3. The voice: the assistants' replies, their word ends, units, unit language, vocoder. The published parts are small
#    files: centroids and vocoder. 1,645 h through two encoders of 95 M weights: some 10 GPU-hours, decoding included.
#    The paper has 84 h of SpeechInstruct too; what is published of it has no recordings (docs/data_cards/speechinstruct.md).
published=https://dl.fbaipublicfiles.com
voice=$published/fairseq/speech_to_speech/vocoder/code_hifigan/mhubert_vp_en_es_fr_it3_400k_layer11_km1000_lj
once centroids curl --fail --location --create-dirs --output-dir out/paper/published --remote-name \
  $published/hubert/mhubert_base_vp_en_es_fr_it3_L11_km1000.bin
for file in g_00500000 config.json; do
  once "vocoder-$file" curl --fail --location --create-dirs --output-dir out/paper/published/vocoder --remote-name "$voice/$file"
done
once replies "$python" "$repository/scripts/paper_manifests.py" replies out/paper/replies \
  out/paper/audioqa out/paper/hh-rlhf-speech
prepare 3b/align
prepare 3b/extract_units
prepare 3b/unit_language
prepare 3b/published_vocoder

# 4. Stage I, S2T: speech to text. Model: 14 GPU-hours (8b: 29). Before the first long run: --overfit-one-batch (docs/training.md).
train "$size/s2t" ${PARALLEL:+training.parallel=$PARALLEL}
# 5. Stage II, T2C: text to codec. Model: 19 GPU-hours (8b: 21), mostly kernel launches: a larger batch takes no longer.
train "$size/t2c"
# 6. Stage III, Echo: speech to speech. Model: 12 GPU-hours (8b: 21), 5 (8b: 7) of them the T2C's decoding of pseudo-labels.
# LABELS=/local/disk/labels.db keeps them on each machine, by what the model said: later epochs and restarts find them.
train "$size/echo" ${PARALLEL:+training.parallel=$PARALLEL} ${LABELS:+targets.cache=$LABELS}
# The other nodes are finished: the following steps run on the first.
$dry || [ "$rank" = 0 ] || exit 0

# 7. One folder, and the paper's tables: speech-to-speech accuracy on the three sets, judged by whisper-large-v3; and the
#    latency, with nothing else running. 3 GPU-hours.
prepare "$size/package"
once "eval-$size" "$python" -m echox eval run --task llama-questions,web-questions,triviaqa --model "out/$size/package" \
  --judge openai/whisper-large-v3 --output "out/$size/eval"
once "latency-$size" "$python" -m echox eval latency --model "out/$size/package" --output "out/$size/latency"
once "report-$size" "$python" -m echox eval report "out/$size/eval"

if $dry; then  # in one process: each that loads is named
  "$python" -c '
import sys
from echox import load_recipe
for path in sys.argv[1:]:
    print(f"# {path}: stage {load_recipe(path).stage}, loads")' "${named[@]}"
fi
