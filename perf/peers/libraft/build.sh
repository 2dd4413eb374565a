#!/bin/sh
# Compiles libraft's node: build.sh FILE. Needs a C compiler and Debian's libraft-dev and libuv1-dev; says so if they are not
# there. Called by ../install.sh and by the test of ../src/libraft.rs.
set -eu

version=$(dpkg-query -W -f '${Version}' libraft-dev)
cc -std=gnu11 -O2 -Wall -Wextra -Werror "-DLIBRAFT_VERSION=\"$version\"" -o "$1" "$(dirname "$0")/node.c" -lraft -luv
