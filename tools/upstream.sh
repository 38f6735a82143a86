#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Run tests/upstream against the checkouts in $QUBES_SRC; without it, say so and skip them all.
# Arguments are pytest's.
set -eu
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

if [ -z "${QUBES_SRC:-}" ]; then
    echo 'test-upstream: QUBES_SRC is not set, so all is skipped: see CONTRIBUTING.md'
else
    tools/setup.sh upstream
fi
as_root env QUBES_SRC="${QUBES_SRC:-}" .venv/bin/pytest -q tests/upstream "$@"
# The Salt formula, with Qubes' own qvm states.
if [ -n "${QUBES_SRC:-}" ] && [ $# -eq 0 ]; then
    tools/salt.sh
    as_root env QUBES_SRC="$QUBES_SRC" .venv/bin/pytest -q tests/e2e/test_salt.py
fi
