#!/usr/bin/env bash
# Writes a short report and reads its interval logs and percentile files with HdrHistogram's own Python package, which it
# installs below target/ (PyPI).
#
#   perf/check-report.sh
set -euo pipefail
cd "$(dirname "$0")/.."

venv=target/hdrhistogram-venv
if ! "$venv/bin/python" -c 'import hdrh' 2>/dev/null; then
    rm -rf "$venv"
    if ! python3 -m venv "$venv" >/dev/null 2>&1; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            echo "$0: install python3-venv" >&2
            exit 2
        fi
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends python3-venv
        python3 -m venv "$venv"
    fi
    "$venv/bin/pip" install -q --disable-pip-version-check hdrhistogram==0.10.8
fi

cargo build --release --locked -p synod-perf
report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
target/release/synod-perf floor --rounds 2 --seconds 1.5 --outstanding 1,64 --report "$report" >/dev/null
"$venv/bin/python" perf/check-hlog.py "$report"
