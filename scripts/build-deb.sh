#!/usr/bin/env bash
# Builds the Debian package: the release binary, its man pages and completions (which the binary itself writes), then cargo-deb.
#
#   scripts/build-deb.sh [FILE]     the package's path; default: target/debian/, under the version's name
#
# Environment: SYNOD_DEB_VERSION (another version than Cargo.toml's, for a test of an upgrade), SYNOD_BIN (a binary that was built
# already), CARGO_DEB (the cargo-deb program; default: the one on the PATH, else it is installed below SYNOD_TOOLS), SYNOD_TOOLS (default
# /var/tmp/synod-tools).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${SYNOD_BIN:-}" ]; then
    cargo build --release --locked --package synod
    SYNOD_BIN=target/release/synod
elif [ ! target/release/synod -ef "$SYNOD_BIN" ]; then
    install -D "$SYNOD_BIN" target/release/synod
fi

tools=${SYNOD_TOOLS:-/var/tmp/synod-tools}
CARGO_DEB=${CARGO_DEB:-$(command -v cargo-deb || echo "$tools/bin/cargo-deb")}
if [ ! -x "$CARGO_DEB" ]; then
    cargo install cargo-deb --version 3.8.0 --locked --root "$tools"
fi

out=target/deb
rm -rf "$out"
mkdir -p "$out/completions"
"$SYNOD_BIN" man "$out/man"
"$SYNOD_BIN" completions bash >"$out/completions/synod"
"$SYNOD_BIN" completions zsh >"$out/completions/_synod"
"$SYNOD_BIN" completions fish >"$out/completions/synod.fish"

"$CARGO_DEB" --no-build --locked --package synod \
    ${SYNOD_DEB_VERSION:+--deb-version "$SYNOD_DEB_VERSION"} ${1:+--output "$1"}
