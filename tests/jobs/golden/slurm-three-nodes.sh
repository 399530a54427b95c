#!/bin/bash
#SBATCH --job-name=ts-hybrid-a1b2c3
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=2
#SBATCH --mem=64G
#SBATCH --time=1-12:00:00
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --qos=low
#SBATCH --chdir="/home/ada/tinysearch"
#SBATCH --output="/home/ada/my runs/hybrid/slurm-%j.log"
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --exclusive

# The study is stored in its runs folder: whenever this script starts, it resumes where the last one ended.
set -u
export PATH=/home/ada/tinysearch/.venv/bin:"$PATH"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
started= is_draining= is_stopped=

# One TERM lets every trial stop at its next checkpoint; the search ends with 130 if something is left to do.
drain() {
    [ -n "$started" ] || exit 130
    [ -z "$is_draining" ] || return
    is_draining=1
    if [ -s "$scratch/driver" ]; then kill -TERM "$(cat "$scratch/driver")"; else kill -TERM "$started"; fi
}
trap drain TERM                       # from Slurm: the time is nearly up, or another job needs the nodes
trap 'is_stopped=1; drain' INT        # from `tinysearch stop`

# The search runs on this script's own node: its process can be signalled from here, its exit code read.
search='"$@" & echo "$!" > "$0/driver"; wait "$!"; code=$?; echo "$code" > "$0/code"; exit "$code"'
# symmetric-run makes the node that has the address the head: this one. It takes none of the loopback, and it ends
# every Ray of this user on its nodes, so the nodes are not shared.
addresses=$(getent ahostsv4 "$(hostname)"; hostname -I | tr ' ' '\n')
address=$(awk '/^[0-9.]+/ && !/^127\./ { print $1; exit }' <<< "$addresses")
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(/home/ada/tinysearch/.venv/bin/python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 RAY_USAGE_STATS_ENABLED=0
srun --nodes=3 --ntasks=3 --ntasks-per-node=1 --cpus-per-task=8 \
    ray symmetric-run --address "$address:$((20000 + SLURM_JOB_ID % 10000))" --min-nodes 3 \
        --num-cpus=8 --num-gpus=2 -- \
    bash -c "$search" "$scratch" \
        /home/ada/tinysearch/.venv/bin/python \
        -m \
        search.cli \
        run \
        spaces/hybrid.yaml \
        --name=hybrid \
        --runs=/runs \
        --address=auto \
        --set=d_model=128 \
        '--data=/home/ada/it'"'"'s $HOME; `x` "q" #1 %j ü' &
started=$!
while [ ! -s "$scratch/code" ] && kill -0 "$started" 2>/dev/null; do sleep 1 & wait "$!"; done
# The head's Ray stops in seconds; the other nodes' would look for it for a minute, in which they are not needed.
for _ in $(seq 10); do kill -0 "$started" 2>/dev/null && sleep 1; done
kill -TERM "$started" 2>/dev/null
wait "$started"
code=$?
[ ! -s "$scratch/code" ] || code=$(cat "$scratch/code")
if [ ! -s "$scratch/driver" ] && [ "$code" -eq 0 ]; then
    echo "the search was not started; see Ray's messages above" >&2
    code=1
fi
case $code in 130 | 143) is_draining=1 ;; esac    # Slurm may signal the search itself when it takes the nodes
# Only a running job is queued again: one that was cancelled must not come back.
if [ "$code" -ne 0 ] && [ -n "$is_draining" ] && [ -z "$is_stopped" ] &&
    [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "queued again; the study will resume from here"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
