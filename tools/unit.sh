#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Run the unit tests, as root. Not while a lab runs: a mount namespace keeps its disks attached.
set -eu
cd "$(dirname "$0")/.."

# These run side by side, more of them than there are processors, as they wait for each other's
# programs; the longest first. The others look at all processes, at /tmp, or build in one place.
half="$(echo tests/unit/shim/test_shimctl*.py) tests/unit/server tests/unit/dom0 tests/unit/store
tests/unit/ansible"
# It looks for file systems on all of the machine's devices.
devices=tests/unit/store/test_store_device.py
# What depends on the engines runs with those that users get in the backup template, Debian 13's;
# THOROUGH=1 runs it with this machine's, too, and what takes too long for CI.
marks='not thorough and not engines'
engines='engines and not thorough'
[ -z "${THOROUGH:-}" ] || marks='' engines=engines

# Files in memory: the tests sync thousands of them, and would wait for the disk most of the time.
# A mount namespace of its own: the file system ends with it.
in_memory() {
    if unshare --mount true 2>/dev/null; then
        # shellcheck disable=SC2016 # for the inner shell
        unshare --mount sh -c 'mount -t tmpfs -o mode=1777 none /dev/shm && TMPDIR=/dev/shm "$@"' \
            sh "$@"
    else
        "$@"
    fi
}

# dedup-store and the like don't keep what Python compiles, and are started thousands of times
remove_compiled() {
    find payload -name __pycache__ -prune -exec rm -r {} +
}
trap remove_compiled EXIT
trap 'exit 130' INT TERM
/usr/bin/python3 -m compileall -q payload

ignored=
for path in $half; do
    ignored="$ignored --ignore=$path"
done
# shellcheck disable=SC2086 # a list of options
.venv/bin/pytest -q -m "$marks" tests/unit $ignored
.venv/bin/pytest -q "$devices"
side_by_side() {
    in_memory .venv/bin/pytest -q -n "$(($(nproc) * 2))" --maxschedchunk=4 \
        -o tmp_path_retention_policy=failed --ignore="$devices" -m "$@"
}

# shellcheck disable=SC2086 # a list of names
side_by_side "$marks" $half
PATH=$PWD/.cache/debian13/bin:$PATH
export PATH
side_by_side "$engines" tests/unit/server tests/unit/store
