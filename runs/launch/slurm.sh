#!/usr/bin/env bash
# Train one recipe on several machines under SLURM:
#
#   sbatch --nodes=2 runs/launch/slurm.sh recipes/3b/s2t.yaml training.parallel=hybrid
#
# Submit it from the repository, which all machines must see, as they must see training.output_dir (a shared file
# system). A run of weeks is a chain of such jobs:
# - Five minutes before the time limit, or when the job is preempted, SLURM signals this script. The run then writes a
#   checkpoint and ends, and the job is requeued and continues there (at most REQUEUES times).
# - A process that dies is started again by torchrun, with all the others, from the newest checkpoint.
# - When a machine dies SLURM itself requeues the job.
# Where jobs may not be requeued, submit it several times with --dependency=singleton: each continues the one before, and
# one that finds the run finished ends at once.
#SBATCH --job-name=echox
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=out/slurm-%j.log
set -euo pipefail

gpus=${GPUS:-8}                                        # processes on each machine
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1            # else a restart finds the addresses of processes that have ended

# The run looks for this file after each step: a signal to all processes would also end those that read the data.
export ECHOX_STOP_FILE=$PWD/out/.stop-$SLURM_JOB_ID
mkdir -p out
rm -f "$ECHOX_STOP_FILE"
trap 'echo "asked to stop: the run writes a checkpoint"; touch "$ECHOX_STOP_FILE"; signalled=true' USR1 TERM

# One torchrun on each machine; they meet at the first one. In the background, as bash handles no signal while it waits
# for a command; `wait` is ended by each signal.
srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$gpus" \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv-endpoint "$head:${PORT:-29500}" \
  --max-restarts "${RESTARTS:-5}" \
  -m echox.training.loop "$@" &
steps=$! signalled=true
while $signalled; do
  signalled=false status=0
  wait "$steps" || status=$?
done

if [ -e "$ECHOX_STOP_FILE" ] && [ "$status" = 0 ]; then
  rm -f "$ECHOX_STOP_FILE"
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "${REQUEUES:-100}" ]; then
    echo "requeued ${SLURM_RESTART_COUNT:-0} times, REQUEUES allows no more: submit it again to continue" >&2
    exit 1
  fi
  echo "requeued: it continues from its newest checkpoint"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
