#!/usr/bin/env bash
# Train one recipe on several machines that only know SSH:
#
#   HOSTS="gpu1 gpu2" runs/launch/ssh.sh recipes/3b/s2t.yaml training.parallel=fsdp
#
# Needs: SSH keys; the repository, its Python and training.output_dir under the same paths everywhere (a shared file
# system). A process that dies is started again by torchrun, with all the others, from the newest checkpoint. If a
# machine or torchrun itself dies, all are stopped and started again, at most TRIES times. Ctrl-C stops all.
set -euo pipefail

read -r -a hosts <<< "${HOSTS:?expected host names, for example HOSTS=\"gpu1 gpu2\"}"
[ $# -gt 0 ] || { echo "usage: HOSTS=\"gpu1 gpu2\" runs/launch/ssh.sh RECIPE [key=value ...]" >&2; exit 2; }
repository=$(cd "$(dirname "$0")/../.." && pwd)
torchrun=${TORCHRUN:-$repository/.venv/bin/torchrun}
arguments=$(printf ' %q' "$@")

# -tt: the remote processes end when their connection does.
start() {
  ssh -tt -o BatchMode=yes -o ServerAliveInterval=15 "$1" \
    "cd $(printf '%q' "$repository") && OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} ECHOX_RESTART_COUNT=$((try - 1)) TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
     $torchrun --nnodes ${#hosts[@]} --nproc-per-node ${GPUS:-8} --rdzv-backend c10d --rdzv-id echox-$$-$try \
     --rdzv-endpoint ${hosts[0]}:${PORT:-29500} --max-restarts ${RESTARTS:-5} -m echox.training.loop$arguments" \
    < /dev/null
}

stop() { kill "${running[@]}" 2> /dev/null || true; wait || true; }
running=()
trap 'stop; exit 130' INT TERM

for try in $(seq "${TRIES:-3}"); do
  running=()
  for host in "${hosts[@]}"; do start "$host" & running+=($!); done
  finished=true
  for _ in "${hosts[@]}"; do wait -n || { finished=false; break; }; done
  $finished && exit 0
  echo "a machine failed (try $try): all start again from the newest checkpoint" >&2
  stop
  sleep "${PAUSE_S:-10}"
done
exit 1
