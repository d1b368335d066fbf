#!/usr/bin/env bash
# Submits a Slurm job and prints its id: launch/slurm.sh --nodes 2 --gpus 8 -- train configs/train/mine.yaml
#   --profile NAME|FILE  the cluster (default: $XBRIDGE_PROFILE, else generic): a file of launch/profiles
#   --with LAUNCHER      srun (default): one task per rank; torchrun or accelerate: one agent per node
#   --logs FOLDER        where the job writes (default: logs)
#   --dry-run            print the job file instead
#   --test-only          let Slurm check it, without a job
# The account comes from $XBRIDGE_ACCOUNT, a container image from $XBRIDGE_CONTAINER, the Python from $PYTHON.
set -euo pipefail
exec "${PYTHON:-python3}" -m xbridge.study.slurm "$(realpath "$(dirname "${BASH_SOURCE[0]}")")" "$@"
