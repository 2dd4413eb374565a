#!/usr/bin/env bash
# Runs the commands of README.md and tuning.md as they are written: what a new user would type, in the order of the pages.
#
#   scripts/test-docs.sh             in a clean Debian 12 root (debian-root.sh), with the package installed as README.md says. Needs
#                                    root; builds the package if SYNOD_DEB names none
#   scripts/test-docs.sh --no-root   with a program that was built already, in a directory of its own; for CI
#   scripts/test-docs.sh --list      prints what would be run, and runs nothing
#
# A block is fenced as ```sh. ```sh root is run in the Debian root only, ```sh no-test never: the text beside it says why. The first
# command that fails ends it. All of it has network, processes and mounts of its own (unshare), which end with it; /var/tmp is another one.
#
# Environment: SYNOD_BIN (for --no-root; default target/debug/synod), SYNOD_DEB (a package), those of build-deb.sh and debian-root.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
pages=(README.md tuning.md)

# Prints the blocks of a page as a script; $1: the page, $2: whether those that need a root are wanted.
blocks() {
    awk -v page="$1" -v root="$2" '
        /^```sh/ { runs = ($0 == "```sh" || (root == "yes" && $0 == "```sh root")); inside = 1
                   if (runs) print "at " page ":" NR; next }
        /^```/   { inside = 0; runs = 0; next }
        inside && runs { print }' "$1"
}

script() {
    cat <<'BEGIN'
set -eEu
export LC_ALL=C
place=begin
at() { place=$1; printf '\n== %s\n' "$place"; }
trap 'echo "FAILED: a command of the block at $place" >&2; tail -n 5 /var/tmp/synod/*.log >&2 || true' ERR
set -x
BEGIN
    local page
    for page in "${pages[@]}"; do blocks "$page" "$1"; done
    # Each condition that is not met names its mend, unless it could not be found out.
    cat <<'END'
at "each failure of check names its mend"
synod check --config $F --node 0 -o json >/var/tmp/check.json || [ $? = 1 ]
END
}

inside() {
    local work=$1 root=${2:-}
    mount --make-rprivate /
    ip link set lo up
    ulimit -l unlimited 2>/dev/null || echo "locked memory is limited here" >&2
    if [ -n "$root" ]; then
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount --rbind /dev "$root/dev"
        exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash /root/commands.sh
    fi
    mkdir -p "$work/tmp/bin"
    cp "${SYNOD_BIN:-target/debug/synod}" "$work/tmp/bin/synod"
    cp -r scripts "$work/commands.sh" "$work/tmp/"
    mount --bind "$work/tmp" /var/tmp
    cd /var/tmp
    PATH=/var/tmp/bin:$PATH exec bash /var/tmp/commands.sh
}

case "${1:-}" in
inside) shift; inside "$@" ;;
--list) script yes; exit ;;
--no-root) in_root=no ;;
'') in_root=yes ;;
*) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac

work=$(mktemp -d /var/tmp/synod-docs-XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
spaces=(--mount --net --pid --fork --kill-child --mount-proc)
[ "$(id -u)" = 0 ] || spaces+=(--map-root-user)

if [ "$in_root" = no ]; then
    script no >"$work/commands.sh"
    timeout 120 unshare "${spaces[@]}" "$0" inside "$work"
    checked=$work/tmp/check.json
else
    [ "$(id -u)" = 0 ] || { echo "$0: needs root, for a chroot; --no-root does without" >&2; exit 2; }
    if [ -z "${SYNOD_DEB:-}" ]; then
        SYNOD_DEB=$work/synod_test.deb
        scripts/build-deb.sh "$SYNOD_DEB"
    fi
    scripts/debian-root.sh "$work/debian"
    # Where the commands are run from: the package lies there, as a download would, and the scripts of the sources.
    cp "$SYNOD_DEB" "$work/debian/root/synod_test.deb"
    cp -r scripts "$work/debian/root/scripts"
    { echo 'cd /root'; script yes; } >"$work/debian/root/commands.sh"
    timeout 280 unshare "${spaces[@]}" "$0" inside "$work" "$work/debian"
    checked=$work/debian/var/tmp/check.json
fi

# One finding a line. What could not be found out has its reason, and nothing to mend.
unmet=$(sed 's/},{/}\n{/g' "$checked" | grep -v -e '"severity":"ok"' -e '"current":"unknown: ' || true)
[ "$(sed 's/},{/}\n{/g' "$checked" | wc -l)" -ge 20 ] || { echo "$0: check said little: $(cat "$checked")" >&2; exit 1; }
if grep '"mend":""' <<<"$unmet"; then
    echo "$0: these name no mend" >&2
    exit 1
fi
echo "the commands of ${pages[*]} run as they are written"
