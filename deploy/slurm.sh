#!/usr/bin/env bash
# One study on several Slurm nodes: Ray's head and the driver on the first node, one Ray worker on each other node.
#
#   sbatch deploy/slurm.sh --study cifar10        from the project folder; what follows is passed on to `ablate run --cluster`
#
# Before the time limit the driver ends cleanly and the job is requeued; it goes on where it stood. The project folder with its .venv
# and `store.url` must be on a file system that all nodes see. docs/cluster.md tells the rest.
#
# Settings from outside:
#   ABLATE_HEAD_ADDRESS          address of the first node that the others reach; default: the first one that `hostname -I` prints
#   ABLATE_OBJECT_STORE_BYTES    shared memory for Ray on each node; default 2 GiB
#
#SBATCH --job-name=ablate
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=ablate-%j.log
#
# USR1 and not TERM announces the time limit: scancel sends TERM, and a cancelled job must not come back.
# --no-kill: the job outlives a lost worker node.

set -uo pipefail
set -m # every background job leads a process group, so that it can be stopped with all its children

START_LIMIT_S=180  # for Ray's head to start; the first import from a network file system takes its time
DRIVER_LIMIT_S=120 # for the driver to end cleanly; less than --signal announces
STOP_LIMIT_S=30    # for Ray to end cleanly

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }

# Ray itself tries for minutes where nobody listens.
head_listens() { timeout 5 bash -c "exec 3<>/dev/tcp/${RAY_ADDRESS%:*}/${RAY_ADDRESS##*:}" 2>/dev/null; }

# Runs on each worker node. Ray's node processes end for good when the head has lost sight of them; so they are started again.
keep_worker() {
  set -m
  local scratch ray_pid='' stop=''
  trap 'stop=1; [[ $ray_pid ]] && kill -TERM "$ray_pid" 2>/dev/null' TERM INT
  scratch=$(mktemp -d /tmp/ray-XXXXXX) || return 1
  while [[ ! $stop ]]; do
    if head_listens && [[ ! $stop ]]; then
      ray start --block --address="$RAY_ADDRESS" --num-cpus="${SLURM_CPUS_PER_TASK:-1}" \
        --object-store-memory="$ABLATE_OBJECT_STORE_BYTES" --temp-dir="$scratch" --disable-usage-stats >"$scratch/worker.log" 2>&1 &
      ray_pid=$!
      while kill -0 "$ray_pid" 2>/dev/null; do wait "$ray_pid"; done
      kill -KILL -- "-$ray_pid" 2>/dev/null # what a killed node process left behind
      ray_pid=''
      [[ $stop ]] || say "Ray on $(uname -n) ended: $(grep -m1 'exit code' "$scratch/worker.log" || tail -n1 "$scratch/worker.log")"
    fi
    [[ $stop ]] || sleep 2
  done
  rm -rf "$scratch"
}

# stop_job PID SECONDS: TERM, wait, then KILL the whole process group.
stop_job() {
  kill -TERM "$1" 2>/dev/null
  for ((i = 0; i < 10 * $2; i++)); do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL -- "-$1" 2>/dev/null
  wait "$1" 2>/dev/null
}

driver_pid='' head_pid='' worker_pids=() announced='' scratch=''

# Only what this job started: `ray stop` would end the Ray of other jobs on a shared node too.
clean_up() {
  trap '' TERM INT USR1
  [[ $driver_pid ]] && stop_job "$driver_pid" "$DRIVER_LIMIT_S"
  for pid in "${worker_pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  for pid in "${worker_pids[@]}"; do stop_job "$pid" "$STOP_LIMIT_S"; done
  [[ $head_pid ]] && stop_job "$head_pid" "$STOP_LIMIT_S"
  [[ $scratch ]] && rm -rf "$scratch"
}
trap clean_up EXIT
trap 'announced=limit' USR1
trap 'announced=end' TERM INT

if [[ -z ${SLURM_JOB_ID:-} || -z ${SLURM_JOB_NODELIST:-} ]]; then
  say "This is no Slurm job. Submit it: sbatch deploy/slurm.sh --study NAME"
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:-$PWD}" || exit 2
[[ -d .venv/bin ]] && PATH="$PWD/.venv/bin:$PATH"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
read -r first_address _ < <(hostname -I)
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node do not share a Ray

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN # whoever reaches Ray without it can run code
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_ADDRESS="${ABLATE_HEAD_ADDRESS:-$first_address}:$port"
export ABLATE_OBJECT_STORE_BYTES="${ABLATE_OBJECT_STORE_BYTES:-2147483648}"
scratch=$(mktemp -d /tmp/ray-XXXXXX) || exit 1

say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): Ray's head at $RAY_ADDRESS on ${nodes[0]}, $((${#nodes[@]} - 1)) more nodes"
ray start --head --block --node-ip-address="${RAY_ADDRESS%:*}" --port="$port" --dashboard-host=127.0.0.1 --include-dashboard=false \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --object-store-memory="$ABLATE_OBJECT_STORE_BYTES" --temp-dir="$scratch" --disable-usage-stats \
  >"$scratch/head.log" 2>&1 &
head_pid=$!
deadline=$((SECONDS + START_LIMIT_S))
until grep -q 'Ray runtime started' "$scratch/head.log"; do # the port answers earlier, when a driver is still refused
  [[ $announced ]] && exit 143
  if ((SECONDS > deadline)) || ! kill -0 "$head_pid" 2>/dev/null; then
    cat "$scratch/head.log"
    say "Ray's head did not start within $START_LIMIT_S s; what it printed stands above. Is port $port free on ${nodes[0]}?"
    exit 1
  fi
  sleep 0.2
done
for node in "${nodes[@]:1}"; do
  # --cpus-per-task: since Slurm 22.05 srun does not take it over from sbatch.
  srun --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --nodelist="$node" --no-kill \
    bash -c "$(declare -f say head_listens keep_worker); keep_worker" </dev/null &
  worker_pids+=($!)
done

ablate run --cluster "$@" &
driver_pid=$!
status=0
while [[ ! $announced ]]; do
  wait "$driver_pid"
  status=$?
  kill -0 "$driver_pid" 2>/dev/null || break # a signal to this script ends `wait` too
done
if [[ ! $announced ]]; then
  driver_pid=''
  say "ablate ended with status $status"
  kill -0 "$head_pid" 2>/dev/null || { say "Ray's head has ended before it; its last words:" && tail "$scratch/head.log"; }
  exit "$status"
fi

say "$([[ $announced == limit ]] && echo "the time limit is near" || echo "this job is being ended"): stopping the driver"
stop_job "$driver_pid" "$DRIVER_LIMIT_S"
driver_pid=''
if [[ $announced == limit ]]; then
  say "requeued: the next start goes on where this one stood"
  scontrol requeue "$SLURM_JOB_ID"
  exit
fi
exit 143
