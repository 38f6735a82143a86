#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Run its arguments, each a shell command, at the same time; show what each printed when all have
# ended. Fails when one of them did.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'trap "" TERM; kill 0; exit 130' INT TERM
number=0
for command in "$@"; do
    number=$((number + 1))
    (
        status=0
        sh -c "$command" >"$folder/$number" 2>&1 || status=$?
        echo "$status" >"$folder/$number.status"
    ) &
done
wait
failed=0
number=0
for command in "$@"; do
    number=$((number + 1))
    cat "$folder/$number"
    status=$(cat "$folder/$number.status")
    if [ "$status" != 0 ]; then
        printf 'failed with %s: %s\n' "$status" "$command" >&2
        failed=1
    fi
done
exit "$failed"
