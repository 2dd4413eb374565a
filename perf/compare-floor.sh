#!/bin/sh
# Builds an independent skeleton (a cargo package with a program `skel`) and runs ours interleaved with it.
#
#   perf/compare-floor.sh DIR [options of `synod-perf against`]      for instance: perf/compare-floor.sh ../shared/floor --max-ratio 1.15
#
# DIR is only read: it is copied, and built below target/.
set -eu

case "${1:-}" in
'' | -*)
    echo "usage: $0 DIR [options of 'synod-perf against']" >&2
    exit 2
    ;;
esac
sources=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 130' INT TERM
cp -r "$sources/." "$copy"
chmod -R u+w "$copy"

# A target directory of its own: the other package's profile and lock file are not ours.
other="$PWD/target/compare-floor"
(cd "$copy" && CARGO_TARGET_DIR="$other" cargo build --release --locked)
cargo build --release -p synod-perf
target/release/synod-perf against --skel "$other/release/skel" "$@"
