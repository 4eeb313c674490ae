#!/usr/bin/env bash
# Train one recipe on several machines under SLURM:
#
#   sbatch --nodes=2 runs/launch/slurm.sh recipes/3b/s2t.yaml training.parallel=fsdp
#
# Submit it from the repository, which all machines must see, as they must see training.output_dir (a shared file
# system). A process that dies is started again by torchrun, with all the others, from the newest checkpoint; a machine
# that dies, or the time limit, requeues the job, which continues there too. A job that is submitted again continues as well.
#SBATCH --job-name=echox
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=out/slurm-%j.log
set -euo pipefail

gpus=${GPUS:-8}                                        # processes on each machine
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1            # else a restart finds the addresses of processes that have ended

# One torchrun on each machine; they meet at the first one.
srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$gpus" \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:${PORT:-29500}" \
  --max-restarts "${RESTARTS:-5}" \
  -m echox.training.loop "$@"
