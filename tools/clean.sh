#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Remove all that `make demo` and `make test` made in this checkout.
set -eu
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

for state in .lab/*/; do
    name=$(basename "$state")
    case $name in
        '*' | cache) ;;
        *) LAB_NAME=$name lab/lab down --destroy ;;
    esac
done
as_root rm -rf build .lab .venv .venv-2.16 .venv-upstream .cache .hypothesis .pytest_cache .mypy_cache .ruff_cache .ansible
as_root find . -name __pycache__ -type d -prune -exec rm -rf {} +
