#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Run the unit tests, as root: all, or one part.
#   beside  those that run side by side, more of them than there are processors, as they wait for
#           each other's programs; the longest first. Their files are in memory: they sync thousands
#           of them, and would wait for the disk most of the time. Then the one that looks at all of
#           the machine's devices.
#   apart   the others, one by one: they look at all processes and at all of /tmp, and so have their
#           own.
set -eu
cd "$(dirname "$0")/.."
half='tests/unit/shim/test_shimctl_faults.py tests/unit/storage tests/unit/dom0 tests/unit/store
tests/unit/ansible'
# THOROUGH=1 runs what takes too long for CI, too.
marks='not thorough'
[ -z "${THOROUGH:-}" ] || marks=
devices=tests/unit/store/test_store_device.py
part=${1:-all}

# Run a program in namespaces of its own, with an empty file system in memory at a folder.
in_memory() {
    folder=$1
    options=$2
    shift 2
    # shellcheck disable=SC2086 # a list of options
    if unshare $options true 2>/dev/null; then
        # shellcheck disable=SC2016,SC2086 # for the inner shell; a list of options
        FOLDER=$folder unshare $options sh -c \
            'mount -t tmpfs -o mode=1777 none "$FOLDER" && TMPDIR=$FOLDER "$@"' sh "$@"
    else
        "$@"
    fi
}

if [ "$part" != apart ]; then
    # shellcheck disable=SC2086 # a list of names
    in_memory /dev/shm '--mount --propagation=slave' .venv/bin/pytest -q -n "$(($(nproc) * 2))" --maxschedchunk=4 \
        -m "$marks" -o tmp_path_retention_policy=failed --ignore="$devices" $half
    .venv/bin/pytest -q "$devices"
fi
if [ "$part" != beside ]; then
    ignored=
    for path in $half; do
        ignored="$ignored --ignore=$path"
    done
    # shellcheck disable=SC2086 # a list of options
    in_memory /tmp '--mount --propagation=slave --pid --fork --mount-proc' .venv/bin/pytest -q tests/unit $ignored
fi
