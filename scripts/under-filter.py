#!/usr/bin/python3
"""Runs a program under the system call filter of a systemd unit, without systemd.

    scripts/under-filter.py UNIT PROGRAM [ARGUMENT...]

Takes SystemCallFilter= (an allow list) and NoNewPrivileges= from the unit, the groups from `systemd-analyze syscall-filter`; whatever
else the program calls fails with EPERM, as under the unit. Needs python3-seccomp and systemd-analyze. For scripts/test-deb.sh.
"""

import os
import subprocess
import sys

import seccomp


def group(name):
    """The system calls of a group, those of the groups within it included."""
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True
    ).stdout
    words = [line.strip() for line in text.splitlines()[1:]]
    found = set()
    for word in words:
        if word.startswith("@"):
            found |= group(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def main():
    unit, program = sys.argv[1], sys.argv[2:]
    with open(unit, encoding="utf-8") as lines:
        filters = [line.split("=", 1)[1].split() for line in lines if line.startswith("SystemCallFilter=")]
    # systemd always lets a program start and end.
    allowed = group("@default")
    for name in sum(filters, []):
        allowed |= group(name) if name.startswith("@") else {name}
    if not filters or any(name.startswith("~") for name in allowed):
        sys.exit(f"{unit} has no allow list")
    rules = seccomp.SyscallFilter(seccomp.ERRNO(1))
    for name in sorted(allowed):
        try:
            rules.add_rule(seccomp.ALLOW, name)
        except (RuntimeError, ValueError):
            # Of another architecture.
            pass
    rules.load()
    os.execvp(program[0], program)


main()
