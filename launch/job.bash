# The body of every Slurm job: starts the ranks, passes a warning on to them, and puts the job back into the queue until
# it is done. Above it stands what differs: the arrays python, arguments, items, modules, srun_options and launcher, the
# folder logs, and the numbers gpus, tasks_per_node, lead_seconds, max_requeues and max_failures.
set -uo pipefail
nodes=$SLURM_JOB_NUM_NODES  # while it waited, `scontrol update` may have changed what was asked for
restarts=${SLURM_RESTART_COUNT:-0}
failures_file=$logs/.failures-$SLURM_JOB_ID
export XBRIDGE_REFUSED_FILE=$logs/.refused-$SLURM_JOB_ID
rm -f "$XBRIDGE_REFUSED_FILE"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + (SLURM_JOB_ID + restarts) % 10000))  # another one per run: the last one may linger
export MASTER_ADDR MASTER_PORT
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # from Slurm 22.05 on srun does not inherit it
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 PET_SHUTDOWN_TIMEOUT=$lead_seconds
export XBRIDGE_SIGNAL_SECONDS=$lead_seconds  # a training warns after its first save if that is too short
[ "${#modules[@]}" = 0 ] || module load "${modules[@]}" || exit 2
[ "${#items[@]}" = 0 ] || arguments+=("${items[$SLURM_ARRAY_TASK_ID]}")

warned=0 cancelled=0 step='' watch=''
requeue() {
  if [ "$restarts" -ge "$max_requeues" ]; then
    echo "job $SLURM_JOB_ID: not done after $restarts requeues, which is the limit; submit it again to continue"
    return
  fi
  echo "job $SLURM_JOB_ID: requeue $((restarts + 1)): $1"
  scontrol requeue "$SLURM_JOB_ID" && sleep 120  # Slurm ends this script
}
warn() {
  warned=1
  echo "job $SLURM_JOB_ID: warned; the ranks save and stop"
  [ -z "$step" ] || kill -USR1 "$step"  # srun passes it on to its tasks
  # Where the ranks do not stop in time, the newest checkpoint still counts.
  (sleep "$((lead_seconds > 60 ? lead_seconds - 30 : lead_seconds / 2))"; requeue "the ranks did not stop in time") &
  watch=$!
}
trap warn USR1
trap 'cancelled=1' TERM

echo "job $SLURM_JOB_ID, run $restarts: ${arguments[*]} ($nodes x $gpus, head $MASTER_ADDR:$MASTER_PORT)"
if [ "${#launcher[@]}" = 0 ]; then
  command=("${python[@]}" -m xbridge "${arguments[@]}")
else  # one agent per node, which starts the ranks; in a container where there is one
  export PYTHON=${python[-1]}
  command=("${python[@]:0:${#python[@]}-1}" "${launcher[@]}" --nodes "$nodes" --gpus "$gpus" -- "${arguments[@]}")
fi
srun --kill-on-bad-exit=1 --nodes="$nodes" --ntasks="$((nodes * tasks_per_node))" "${srun_options[@]}" "${command[@]}" &
step=$!
wait "$step"; code=$?
while kill -0 "$step" 2> /dev/null; do wait "$step"; code=$?; done  # a trap ended the wait
step=''
[ -z "$watch" ] || kill "$watch" 2> /dev/null

# 0 is done. Every other code says little: agents end with 1 although all ranks have saved, and of ranks that are ended
# because one was, the highest code counts. So marks decide: the warning, and the file that xbridge leaves at bad input.
if [ "$code" = 0 ]; then
  rm -f "$failures_file"
  exit 0
fi
[ "$cancelled" = 0 ] || exit "$code"
if [ "$warned" = 1 ]; then
  requeue "stopped before the limit"
elif [ -e "$XBRIDGE_REFUSED_FILE" ]; then
  rm -f "$XBRIDGE_REFUSED_FILE"
  code=2
else
  failures=$(($(cat "$failures_file" 2> /dev/null || echo 0) + 1))
  echo "$failures" > "$failures_file"
  echo "job $SLURM_JOB_ID: failure $failures of at most $max_failures (code $code)"
  [ "$failures" -gt "$max_failures" ] || requeue "a rank failed"
fi
exit "$code"
