#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# All linters; goes on after a failure, so that one run shows everything.
set -u
cd "$(dirname "$0")/.." || exit 1
PATH=$PWD/.venv/bin:$PATH
failed=

check() {
    name=$1
    shift
    printf 'lint: %s\n' "$name"
    "$@" || failed="$failed $name"
}

# Each part is a program of its own, with its own import path.
mypy_part() {
    path=$1
    shift
    MYPYPATH=$path mypy --no-error-summary --cache-dir=.mypy_cache "$@"
}

shell_files() {
    git ls-files -z --cached --others --exclude-standard | xargs -0 grep -lE '^#!.*[/ ](ba)?sh( |$)' --
}

check 'ruff format' ruff format --quiet --check .
check 'ruff check' ruff check --quiet .
check 'mypy shim' mypy_part payload/dom0 payload/dom0/scrypt
check 'mypy shimctl' mypy_part payload/dom0 payload/dom0/shimctl
check 'mypy dedup-store' mypy_part payload/qube payload/qube/dedup-store payload/qube/dedup_store
check 'mypy lab' mypy_part lab:lab/dom0 lab/qubeslab lab/connection/lab.py
check 'yamllint' yamllint --strict .
check 'ansible-lint' ansible-lint --offline --strict -q
# shellcheck disable=SC2046 # names in this project have no spaces
check 'settings in README' python3 tools/settings.py --check
check 'shellcheck' shellcheck $(shell_files)
if [ -d salt ]; then
    # shellcheck disable=SC2046
    check 'salt-lint' salt-lint $(git ls-files 'salt/*.sls' 'salt/*.jinja' 'salt/*.top')
fi
check 'files end and links' git diff --check "$(git hash-object -t tree /dev/null)" HEAD

if [ -n "$failed" ]; then
    printf 'lint: failed:%s\n' "$failed" >&2
    exit 1
fi
