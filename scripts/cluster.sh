#!/usr/bin/env bash
# A local cluster on loopback, for people and for tests.
#
#   scripts/cluster.sh up           formats (once) and starts the nodes
#   scripts/cluster.sh down         stops them with SIGTERM; the logs stay
#   scripts/cluster.sh kill N       kills node N with SIGKILL
#   scripts/cluster.sh start N      starts node N again
#   scripts/cluster.sh status       what the nodes say (exit code 3: no leader or quorum)
#
# Environment: SYNOD_STATE (where configuration, logs and pid files lie; default /var/tmp/synod-cluster-$UID), SYNOD_NODES
# (how many, default 3; fixed by the first `up`), SYNOD_PORT (the first port, default 7400), SYNOD_BIN (the program;
# default target/release/synod, built if it is not there).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=${SYNOD_STATE:-/var/tmp/synod-cluster-$UID}
nodes=${SYNOD_NODES:-3}
port=${SYNOD_PORT:-7400}
synod=${SYNOD_BIN:-$root/target/release/synod}
config=$state/synod.toml

die() {
    echo "cluster.sh: $*" >&2
    exit 1
}

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}

build() {
    [[ -x $synod ]] && return
    [[ -z ${SYNOD_BIN:-} ]] || die "SYNOD_BIN=$synod is not a program"
    (cd "$root" && cargo build --release --package synod)
}

write_config() {
    local id
    {
        echo "# Written by scripts/cluster.sh; everything else has its default."
        for ((id = 0; id < nodes; id++)); do
            echo "[[node]]"
            echo "id = $id"
            echo "peer_listen = \"127.0.0.1:$((port + 20 * id))\""
            echo "client_listen = \"127.0.0.1:$((port + 20 * id + 10))\""
            echo "dir = \"$state/node-$id\""
        done
    } >"$config.new"
    "$synod" config validate "$config.new" >/dev/null
    mv "$config.new" "$config"
}

# The node numbers of the configuration.
ids() {
    sed -n 's/^id = //p' "$config"
}

known() {
    [[ -f $config ]] || die "there is no cluster in $state: run 'up' first"
    ids | grep -qx -- "$1" || die "node '$1' is not in $config, which has: $(ids | tr '\n' ' ')"
}

# Prints the pid of a node that runs. A pid file alone proves nothing: the number may belong to someone else by now.
running() {
    local pid_file=$state/node-$1.pid pid
    [[ -f $pid_file ]] || return 1
    pid=$(<"$pid_file")
    [[ -r /proc/$pid/cmdline ]] || return 1
    tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "start --config $config --node $1 " || return 1
    echo "$pid"
}

start_node() {
    local id=$1 pid
    if pid=$(running "$id"); then
        echo "node $id runs already (pid $pid)"
        return
    fi
    if [[ ! -d $state/node-$id ]]; then
        "$synod" format --config "$config" --node "$id"
    fi
    nohup "$synod" start --config "$config" --node "$id" >>"$state/node-$id.out" 2>>"$state/node-$id.log" </dev/null &
    pid=$!
    echo "$pid" >"$state/node-$id.pid"
    echo "node $id started (pid $pid), log $state/node-$id.log"
}

# Waits until a process of ours is gone, at most for the seconds given.
wait_gone() {
    timeout "$2" tail --pid="$1" -f /dev/null
}

stop_node() {
    local id=$1 pid
    pid=$(running "$id") || { rm -f "$state/node-$id.pid"; return 0; }
    kill -TERM "$pid"
    wait_gone "$pid" 15 || die "node $id (pid $pid) did not end within 15 s; see $state/node-$id.log"
    rm -f "$state/node-$id.pid"
    echo "node $id stopped"
}

kill_node() {
    local id=$1 pid
    pid=$(running "$id") || die "node $id does not run"
    kill -KILL "$pid"
    wait_gone "$pid" 15 || die "node $id (pid $pid) is still there"
    rm -f "$state/node-$id.pid"
    echo "node $id killed"
}

up() {
    local id
    mkdir -p "$state"
    [[ -f $config ]] || write_config
    for id in $(ids); do
        start_node "$id"
    done
    echo "configuration: $config"
}

down() {
    local id
    [[ -f $config ]] || return 0
    for id in $(ids); do
        stop_node "$id"
    done
}

# Checks how many arguments the command got.
arguments() {
    [[ $1 -eq $2 ]] || usage
}

case "${1:-}" in
up)
    arguments $# 1
    build
    up
    ;;
down)
    arguments $# 1
    down
    ;;
start)
    arguments $# 2
    build
    known "$2"
    start_node "$2"
    ;;
kill)
    arguments $# 2
    known "$2"
    kill_node "$2"
    ;;
status)
    arguments $# 1
    [[ -f $config ]] || die "there is no cluster in $state: run 'up' first"
    build
    exec "$synod" status --config "$config"
    ;;
*)
    usage
    ;;
esac
