#!/usr/bin/env bash
# One process on this machine: launch/local.sh -- study run configs/studies/quickstart.yaml
set -euo pipefail
# shellcheck source=contract.bash
source "$(dirname "${BASH_SOURCE[0]}")/contract.bash"
read_options "$@"
[ "$nodes" = 1 ] || refuse "only --nodes 1; use another launcher for more"
[ "$gpus" = 1 ] || refuse "only --gpus 1; use another launcher for more"
run_all "$python" -m xbridge
