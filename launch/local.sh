#!/usr/bin/env bash
# One process on this machine: launch/local.sh -- study run configs/studies/quickstart.yaml
# The contract of every launcher: launch/NAME.sh [--nodes N] [--gpus G] [--after JOB] -- ARGS...; prints a job id or blocks.
set -euo pipefail
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --nodes | --gpus) [ "${2:-}" = 1 ] || { echo "local.sh: only $1 1; use another launcher for more" >&2; exit 2; }; shift 2 ;;
    --after) shift 2 ;;  # what came before has ended already: this launcher blocks
    *) echo "local.sh: unknown option $1" >&2; exit 2 ;;
  esac
done
[ $# -gt 1 ] || { echo "usage: launch/local.sh [--nodes 1] [--gpus 1] [--after JOB] -- ARGS..." >&2; exit 2; }
shift
exec "${PYTHON:-python3}" -m xbridge "$@"
