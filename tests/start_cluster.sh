#!/bin/sh
# Trains with one parameter server and two workers on this machine. The arguments are
# train.py's; the ports are PORT (2222) and the two after it.
#
#   tests/start_cluster.sh --stage=motion --data_dir=data/demo/preprocessed \
#       --train_dir=runs/two_workers --motion_weights=random --batch_size=16
port=${PORT:-2222}

start() {
    job=$1 task=$2
    shift 2
    ${TRAIN:-python train.py} "$@" --ps_hosts="localhost:$port" \
        --worker_hosts="localhost:$((port + 1)),localhost:$((port + 2))" \
        --job_name="$job" --task_index="$task" &
}

start ps 0 "$@"
pids=$!
start worker 0 "$@"
chief=$!
start worker 1 "$@"
pids="$pids $!"
trap 'kill $chief $pids' INT TERM

wait "$chief"
code=$?
# those that wait for a chief which will not come back
[ "$code" -eq 0 ] || kill $pids
for pid in $pids; do
    wait "$pid" || code=$?
done
exit "$code"
