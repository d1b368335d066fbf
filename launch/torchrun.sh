#!/usr/bin/env bash
# Ranks by torchrun: launch/torchrun.sh --gpus 4 -- train configs/train/mine.yaml
# On several machines, one call on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set.
# RESTARTS=2 starts all ranks again, in place, when one of them dies; they continue from the newest checkpoint.
set -euo pipefail
# shellcheck source=contract.bash
source "$(dirname "${BASH_SOURCE[0]}")/contract.bash"
read_options "$@"
meet
start=("$python" -m torch.distributed.run --nproc_per_node "$gpus" --max_restarts "${RESTARTS:-0}")
if [ "$nodes" = 1 ]; then
  start+=(--standalone)
else
  start+=(--nnodes "$nodes" --rdzv_backend c10d --rdzv_id "${SLURM_JOB_ID:-xbridge}-${SLURM_RESTART_COUNT:-0}")
  start+=(--rdzv_endpoint "$address:$port" --rdzv_conf "is_host=$((node_rank == 0))")
fi
run_all "${start[@]}" -m xbridge
