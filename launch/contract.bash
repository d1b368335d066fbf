# What all launchers share (sourced): the options of the contract, and the Python to start.
#   launch/NAME.sh [--nodes N] [--gpus G] [--after JOB[:JOB...]] [--name NAME] [--time LIMIT] [--logs FOLDER]
#                  [--array LIST] [--dry-run] -- ARGS...
# ARGS are xbridge's. A launcher prints a job id, or blocks until all is done. G is per node: GPUs, or processes on a
# machine without any. LIST is a file: for each of its lines, ARGS are run once with the line as one more argument.
# A launcher that blocks has no use for --after, --name, --time and --logs. --dry-run prints what would be started.

# Sets nodes, gpus, list (a path or nothing), dry_run (0 or 1) and arguments. An option that is not of the contract is
# given to the function `own_option`, which a launcher may define: it sets `taken` to how many words it used.
read_options() {
  nodes=1 gpus=1 list='' dry_run=0
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
      --nodes | --gpus) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || refuse "$1 needs a whole number from 1 on, not '${2:-}'" ;;&
      --nodes) nodes=$2 taken=2 ;;
      --gpus) gpus=$2 taken=2 ;;
      --after | --name | --time | --logs) taken=2 ;;
      --dry-run) dry_run=1 taken=1 ;;
      --array) list=${2:-} taken=2; [ -r "$list" ] || refuse "--array: cannot read '$list'" ;;
      *) taken=0; if declare -F own_option > /dev/null; then own_option "$@"; fi
         [ "$taken" -gt 0 ] || refuse "unknown option $1" ;;
    esac
    [ $# -ge "$taken" ] || refuse "$1 needs a value"
    shift "$taken"
  done
  [ $# -gt 1 ] || refuse "usage: launch/${0##*/} [--nodes N] [--gpus G] [--after JOB] [--array LIST] -- ARGS..."
  shift
  arguments=("$@")
}

refuse() {
  echo "${0##*/}: $1" >&2
  exit 2
}

# run_all START...: START... ARGS, or with --array once per line of the list; ends at the first failure.
run_all() {
  local line start=("$@")
  [ "$dry_run" = 0 ] || start=(show "$@")
  if [ -z "$list" ]; then
    [ "$dry_run" = 1 ] || exec "$@" "${arguments[@]}"
    show "$@" "${arguments[@]}"
    return
  fi
  while IFS= read -r line || [ -n "$line" ]; do
    "${start[@]}" "${arguments[@]}" "$line" < /dev/null || exit
  done < "$list"
}

show() {
  printf '%q ' "$@"
  echo
}

# Where the ranks of several machines meet: each machine calls the launcher once. In a Slurm step that is srun's work.
meet() {
  node_rank=${NODE_RANK:-${SLURM_NODEID:-0}} address=${MASTER_ADDR:-} port=${MASTER_PORT:-29500}
  if [ "$nodes" -gt 1 ] && [ -z "$address" ]; then
    refuse "--nodes $nodes: run me once on each machine with MASTER_ADDR, MASTER_PORT and NODE_RANK (0 to $((nodes - 1))) set, or use launch/slurm.sh or launch/deepspeed.sh"
  fi
  # torch 2.13: without this, workers that an agent starts again meet the keys of the ones before them.
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  # The warning signal is for the workers: the agent passes it on and gives them time to save.
  export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 PET_SHUTDOWN_TIMEOUT=${PET_SHUTDOWN_TIMEOUT:-240}
}

python=${PYTHON:-python3}
