#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Run tests/upstream against the checkouts in $QUBES_SRC; without it, say so and skip them all.
# Arguments are pytest's. THOROUGH=1 runs what takes long, too.
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
marks='not thorough'
[ -z "${THOROUGH:-}" ] || marks=
as_root env QUBES_SRC="${QUBES_SRC:-}" .venv/bin/pytest -q -m "$marks" tests/upstream "$@"
# The Salt formula, with Qubes' own qvm states.
if [ -n "${QUBES_SRC:-}" ] && [ $# -eq 0 ]; then
    tools/salt.sh
    as_root env QUBES_SRC="$QUBES_SRC" .venv/bin/pytest -q tests/e2e/test_salt.py
fi
