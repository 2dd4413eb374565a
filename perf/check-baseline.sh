#!/usr/bin/env bash
# Counts the instructions and system calls of a commit and holds them against perf/baseline.json. Under a minute once the
# programs are built. Installs valgrind and strace where they are missing and may be installed.
#
#   perf/check-baseline.sh            fails if a commit costs more than it did
#   perf/check-baseline.sh --write    keeps what is counted as the new baseline
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
for need in valgrind strace; do
    command -v "$need" >/dev/null || missing+=("$need")
done
if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "$0: install ${missing[*]}" >&2
        exit 2
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${missing[@]}"
fi

what=--check
if [ "${1:-}" = --write ]; then
    what=--write
elif [ "$#" -gt 0 ]; then
    echo "usage: $0 [--write]" >&2
    exit 2
fi
cargo build --release --locked -p synod -p synod-sim -p synod-perf
exec target/release/synod-perf baseline "$what" perf/baseline.json
