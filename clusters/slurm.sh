#!/usr/bin/env bash
# A study as a SLURM job that goes on by itself: shortly before its time limit it stops the study and puts itself into the queue again,
# until the study is finished. Change the lines marked CHANGE (docs/slurm.md explains them), then: sbatch slurm.sh
# Arguments after the script go to `study run`: sbatch slurm.sh --set budget.trials=40
#
#SBATCH --job-name=finetune-study
#SBATCH --account=CHANGE
#SBATCH --partition=CHANGE
#SBATCH --time=04:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

study_file=CHANGE # the study file, as an absolute path; its data and its encoder are files on a file system that every node has
venv=CHANGE       # the virtual environment with this package, on such a file system
scratch=CHANGE    # a folder on such a file system with room for the store: not your home, which has a quota
max_restarts=50   # a job that was queued again so often stays away: perhaps one epoch takes longer than the time limit

if grep -n '=CHANG[E]' "$0"; then
  echo "these lines of the script still hold a placeholder; nothing was started" >&2
  exit 2
fi
for file in "$study_file" "$venv/bin/study"; do
  [[ -e $file ]] || { echo "$file does not exist on $(hostname); nothing was started" >&2; exit 2; }
done

export PATH="$venv/bin:$PATH"
export HF_HUB_OFFLINE=1 # without internet a download would be tried for minutes; set it to 0 where the nodes have internet
export HF_HOME="$scratch/huggingface" XDG_CACHE_HOME="$scratch/cache"
export FINETUNE_STUDY_STORE="$scratch/store"
name=$(basename "$study_file")
command=(study run "$study_file" --out "$scratch/runs/${name%.*}")
job="$scratch/jobs/$SLURM_JOB_ID"
mkdir -p "$job"
trap 'rm -rf "$job"' EXIT

# On one node the study starts a Ray of its own, which disturbs no other Ray there. On several nodes Ray's command starts one together.
# It ends every Ray of yours on these nodes, before and after: it must have them for itself.
through=()
if ((SLURM_JOB_NUM_NODES > 1)); then
  head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  address="$head:$((20000 + SLURM_JOB_ID % 20000))" # above the ports of Ray's workers
  RAY_AUTH_TOKEN=$(od -An -vtx1 -N32 /dev/urandom | tr -d ' \n')
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN # without it everybody on the network could run code as you
  export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 RAY_USAGE_STATS_ENABLED=0
  through=(
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES"
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --
  )
  command+=(--address "$address")
  trap 'rm -rf "$job"; srun --ntasks-per-node=1 rm -rf "$RAY_TMPDIR"' EXIT
fi

# The signal reaches this shell only. Passed on to the study, it does what Ctrl-C does: at most the epoch in progress is lost.
stopping=0
# shellcheck disable=SC2329 # the trap calls it
stop() {
  echo "the job is to end: the study stops"
  stopping=1
  for _ in {1..60}; do # Ray may still be starting
    [[ -s $job/pid ]] && break
    sleep 1
  done
  kill -TERM "$(cat "$job/pid" 2>/dev/null || echo $!)" 2>/dev/null || true
}
trap stop TERM

# The exit code of the study goes through a file: that of srun is the highest of all nodes.
run_study() {
  rm -f "$job/pid" "$job/code"
  # shellcheck disable=SC2016 # these are the variables of the inner shell
  "${through[@]}" bash -c '"$@" & echo $! >"$0/pid"; wait $!; code=$?; echo $code >"$0/code"; exit $code' "$job" "${command[@]}" "$@" &
  code=0
  wait $! || code=$?
  while kill -0 $! 2>/dev/null; do # a signal ends `wait` early
    code=0
    wait $! || code=$?
  done
  if [[ -s $job/code ]]; then code=$(cat "$job/code"); fi
}

run_study "$@"
for _ in {1..10}; do
  ((code == 3 && !stopping)) || break # in use: after a node has crashed, the file server keeps its lock for a while
  echo "trying again in a minute"
  sleep 60 &
  wait $! || true
  run_study "$@"
done

if ((code == 130 || (stopping && (code == 3 || code == 143)))); then # 143: it had only just started
  # A cancelled job is no longer running when the signal comes, and must not come back.
  state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T || true)
  if [[ $state != RUNNING ]]; then
    echo "the job is ${state:-gone}: not queued again"
  elif ((${SLURM_RESTART_COUNT:-0} >= max_restarts)); then
    echo "queued again $max_restarts times: not once more; look at the run, then: sbatch slurm.sh"
  else
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$code"
