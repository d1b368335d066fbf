#!/usr/bin/env bash
# Ranks by `accelerate launch`: launch/accelerate.sh --gpus 4 -- train configs/train/mine.yaml
# On several machines, one call on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set. ZeRO comes from xbridge's
# config, never from accelerate's: only the number of processes is taken from here. CONFIG_FILE=configs/accelerate/...
# adds a file of accelerate's own settings.
set -euo pipefail
# shellcheck source=contract.bash
source "$(dirname "${BASH_SOURCE[0]}")/contract.bash"
read_options "$@"
meet
start=("$python" -m accelerate.commands.launch)
[ -z "${CONFIG_FILE:-}" ] || start+=(--config_file "$CONFIG_FILE")
start+=(--num_machines "$nodes" --num_processes "$((nodes * gpus))" --mixed_precision no --dynamo_backend no)
# Without --multi_gpu accelerate starts one plain process on a machine that has no GPU.
[ "$((nodes * gpus))" = 1 ] || start+=(--multi_gpu --machine_rank "$node_rank")
[ "$nodes" = 1 ] || start+=(--main_process_ip "$address")
start+=(--main_process_port "$port" --max_restarts "${RESTARTS:-0}")
run_all "${start[@]}" -m xbridge
