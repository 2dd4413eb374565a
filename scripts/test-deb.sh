#!/usr/bin/env bash
# Installs the package in a Debian 12 root of its own, starts three nodes there, upgrades in place, removes and purges it.
#
#   scripts/test-deb.sh             needs root; takes some minutes the first time, most of them for the root (debian-root.sh)
#
# The root has its own network, processes and mounts (unshare), so that no port of this host is taken and nothing outlasts the
# script. Not run here, because systemd is not process 1 in it: enabling, starting, stopping and restarting by systemctl, the
# watchdog, and the unit's sandbox but for its system call filter. What can be said of the unit without is checked (systemd-analyze
# verify and security), and the nodes run as the unit's user, with its locked memory.
#
# Environment: as for build-deb.sh and debian-root.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = inside ]; then
    # The second half: process 1 of the new namespaces, outside of the chroot.
    root=$2
    mount --make-rprivate /
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount -t tmpfs -o size=16m tmpfs "$root/dev/shm" || echo "$0: no /dev/shm in the root" >&2
    ip link set lo up
    # As the unit has it; a host that does not let root raise it has the nodes do without, which they say.
    ulimit -l unlimited || echo "$0: locked memory stays limited to $(ulimit -l) KiB" >&2
    exec chroot "$root" /bin/bash /test-inside.sh
fi

[ "$(id -u)" = 0 ] || { echo "$0: needs root, for a chroot" >&2; exit 2; }

step() { printf '\n== %s\n' "$*"; }

root=$(mktemp -d /var/tmp/synod-deb-XXXXXX)
trap 'rm -rf --one-file-system "$root"' EXIT

step "two packages, one of a later version"
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
SYNOD_DEB_VERSION="$version-1" scripts/build-deb.sh "$root/old.deb"
SYNOD_BIN=target/release/synod SYNOD_DEB_VERSION="$version-2" scripts/build-deb.sh "$root/new.deb"
dpkg-deb --info "$root/old.deb"
dpkg-deb --contents "$root/old.deb"

step "the unit"
if command -v systemd-analyze >/dev/null; then
    unit=$(mktemp -d)
    # verify looks for the program and the user, which are in the package and not here.
    sed 's|^\(Exec[A-Z][a-z]*\)=/usr/bin/synod|\1=/bin/true|; /^Documentation=/d; s/^\(User\|Group\)=synod/\1=root/' \
        scripts/systemd/synod@.service >"$unit/synod@.service"
    complaints=$(systemd-analyze verify "$unit/synod@.service" 2>&1) || { echo "$complaints"; exit 1; }
    [ -z "$complaints" ] || { echo "$complaints"; exit 1; }
    systemd-analyze security --offline=true --threshold=30 scripts/systemd/synod@.service | tail -1
    rm -rf "$unit"
    if /usr/bin/python3 -c 'import seccomp' 2>/dev/null; then
        # A whole cluster, with io_uring, under the unit's system call filter.
        scripts/under-filter.py scripts/systemd/synod@.service target/release/synod demo
    else
        echo "no python3-seccomp here: the unit's system call filter is not tried"
    fi
else
    echo "no systemd-analyze here: the unit is not checked"
fi

step "a Debian 12 root"
scripts/debian-root.sh "$root/debian"
mv "$root/old.deb" "$root/new.deb" "$root/debian/"

cat >"$root/debian/test-inside.sh" <<'INSIDE'
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
step() { printf '\n== %s\n' "$*"; }
die() { echo "FAILED: $*" >&2; exit 1; }
config=/etc/synod/synod.toml
as_synod() { setpriv --reuid synod --regid synod --clear-groups -- "$@"; }

start() {
    for node in 0 1 2; do
        # No function here: a signal for its shell would not come to the node.
        setpriv --reuid synod --regid synod --clear-groups -- \
            synod start --config $config --node $node >/var/tmp/node-$node.log 2>&1 &
        pids[node]=$!
    done
    # A leader is there when an entry is taken; the command's own deadline bounds the wait.
    echo "$1" | timeout 60 synod append --config $config --deadline-ms 30000 || { cat /var/tmp/node-*.log; die "no leader"; }
}

stop() {
    kill -TERM "${pids[@]}"
    local node ended
    for node in "${!pids[@]}"; do
        ended=0
        wait "${pids[node]}" || ended=$?
        [ $ended = 0 ] || { tail -n 20 /var/tmp/node-"$node".log; die "node $node did not end in order: $ended"; }
    done
}

step "install"
dpkg -i /old.deb
id synod
[ "$(stat -c %U:%G:%a /var/lib/synod)" = synod:synod:750 ] || die "the directory is not the user's"
for exe in /proc/[0-9]*/exe; do
    case $(readlink "$exe" || true) in */synod) die "the installation started something" ;; esac
done
ls /lib/systemd/system/synod@.service /usr/share/man/man1/synod.1.gz /usr/share/man/man1/synod-start.1.gz \
    /usr/share/bash-completion/completions/synod
bash -n /usr/share/bash-completion/completions/synod
synod --version
synod config validate $config

step "format, start, append"
for node in 0 1 2; do as_synod synod format --config $config --node $node; done
start before
synod status --config $config

step "upgrade in place, with a change of the configuration by its operator; the nodes go on"
echo "# the operator was here" >>$config
dpkg -i --force-confdef --force-confold /new.deb
for pid in "${pids[@]}"; do kill -0 "$pid" || die "the upgrade stopped a node"; done
grep -q "the operator was here" $config || die "the upgrade replaced the configuration"
echo during | timeout 60 synod append --config $config
stop
start after
[ "$(synod read --config $config --from 1 | tr '\n' ' ')" = "before during after " ] || die "the log lacks entries"
stop
synod verify /var/lib/synod/0 /var/lib/synod/1 /var/lib/synod/2

step "remove: the logs and the configuration stay"
dpkg -r synod
[ ! -e /usr/bin/synod ] && [ -d /var/lib/synod/0/group-000 ] && [ -e $config ] || die "removed too much, or too little"

step "install again: the same logs"
dpkg -i /new.deb
start again
[ "$(synod read --config $config --from 1 | tail -1)" = again ] || die "the logs are not the same"
stop

step "purge"
dpkg -P synod
[ ! -e /var/lib/synod ] && [ ! -e /etc/synod/synod.toml ] && ! id synod 2>/dev/null || die "the purge left something"
echo "the package installs, starts, upgrades, removes and purges"
INSIDE

step "in the root"
timeout 300 unshare --mount --net --pid --fork --kill-child "$0" inside "$root/debian"
echo "not run: systemctl, the watchdog, the namespaces of the unit's sandbox; systemd is not process 1 here"
