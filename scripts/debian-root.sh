#!/usr/bin/env bash
# A clean Debian 12 root in a directory, for the tests of the package and of the documentation.
#
#   scripts/debian-root.sh DIR      unpacks one into DIR, which must not exist; needs root
#
# It is made once by debootstrap (some minutes; installed if it is not there) and kept packed for the next time.
# Environment: SYNOD_DEBIAN (where it is kept; default /var/tmp/synod-debian), SYNOD_MIRROR (default
# http://deb.debian.org/debian).
set -euo pipefail

[ $# = 1 ] || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "$0: needs root" >&2; exit 2; }
[ ! -e "$1" ] || { echo "$0: $1 exists" >&2; exit 2; }
kept=${SYNOD_DEBIAN:-/var/tmp/synod-debian}
mkdir -p "$kept"

if [ ! -e "$kept/bookworm.tar" ]; then
    if ! command -v debootstrap >/dev/null; then
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends debootstrap
    fi
    new=$(mktemp -d "$kept/new-XXXXXX")
    trap 'rm -rf --one-file-system "$new"' EXIT
    timeout 900 debootstrap --variant=minbase bookworm "$new/root" "${SYNOD_MIRROR:-http://deb.debian.org/debian}"
    tar -C "$new/root" --exclude='./proc/*' --exclude='./sys/*' --exclude='./var/cache/apt/archives/*.deb' -cf "$new/root.tar" .
    mv "$new/root.tar" "$kept/bookworm.tar"
fi
mkdir -p "$1"
tar -C "$1" -xf "$kept/bookworm.tar"
