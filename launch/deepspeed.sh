#!/usr/bin/env bash
# Ranks by DeepSpeed's launcher, on this machine or on those of a hostfile ("HOST slots=G" per line):
#   launch/deepspeed.sh --gpus 4 -- train configs/train/mine.yaml
#   launch/deepspeed.sh --hostfile hosts [--launcher pdsh|slurm] -- train configs/train/mine.yaml
# pdsh (the default) needs ssh without a password between the hosts; slurm needs an allocation (salloc). MASTER_ADDR is
# the first host unless it is set. PASS names more variables, with spaces between, that ranks on other hosts shall see.
set -euo pipefail
# shellcheck source=contract.bash
source "$(dirname "${BASH_SOURCE[0]}")/contract.bash"
hostfile='' launcher=pdsh
own_option() {
  case $1 in
    --hostfile) hostfile=${2:-}; [ -r "$hostfile" ] || refuse "--hostfile: cannot read '$hostfile'" ;;
    --launcher) launcher=${2:-}; [[ $launcher =~ ^(pdsh|slurm)$ ]] || refuse "--launcher: pdsh or slurm, not '$launcher'" ;;
    *) return ;;
  esac
  taken=2
}
read_options "$@"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "$hostfile" ]; then
  [ "$nodes" = 1 ] || refuse "--nodes $nodes needs --hostfile"
  hostfile=$folder/hosts
  echo "localhost slots=$gpus" > "$hostfile"
fi
mapfile -t hosts < <(grep -vE '^[[:space:]]*(#|$)' "$hostfile")
[ "${#hosts[@]}" -gt 0 ] || refuse "$hostfile names no host"
first=${hosts[0]%%[[:space:]]*}
export MASTER_ADDR=${MASTER_ADDR:-${first/#localhost/127.0.0.1}} MASTER_PORT=${MASTER_PORT:-$((20000 + RANDOM % 10000))}
start=("$python" -m deepspeed.launcher.runner --hostfile "$hostfile" --no_ssh_check --no_local_rank)
start+=(--master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT")
if [ "${#hosts[@]}" -gt 1 ]; then
  start+=(--launcher "$launcher")
  if [ "$launcher" = slurm ]; then
    slots=${hosts[0]##*slots=}
    start+=(--launcher_args "--kill-on-bad-exit=1 --ntasks-per-node=${slots%%[[:space:]]*}")
  else
    # ssh gives the ranks a bare environment, and DeepSpeed exports to them what stands in this file. A list of names
    # keeps the secrets of this environment out of it.
    export DS_ENV_FILE=$folder/environment
    for variable in PATH PYTHONPATH LD_LIBRARY_PATH OMP_NUM_THREADS DS_ACCELERATOR XBRIDGE_OFFLINE XBRIDGE_CACHE \
      HF_HOME XDG_CACHE_HOME ${PASS:-}; do
      [ -z "${!variable:-}" ] || printf '%s=%s\n' "$variable" "${!variable}"
    done > "$DS_ENV_FILE"
  fi
fi
(run_all "${start[@]}" "$(realpath "$(dirname "${BASH_SOURCE[0]}")")/ranks.py") &
ranks=$!
# Of all signals DeepSpeed's launcher passes only INT and TERM on to the ranks, which save; and what bash starts in the
# background does not see INT.
trap 'kill -TERM "$ranks" 2> /dev/null' TERM INT USR1
wait "$ranks" && code=0 || code=$?
while kill -0 "$ranks" 2> /dev/null; do wait "$ranks" && code=0 || code=$?; done  # a trap ended the wait
exit "$code"
