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
    git grep -lE '^#!.*[/ ](ba)?sh( |$)' -- .
}

check 'ruff format' ruff format --quiet --check .
check 'ruff check' ruff check --quiet .
check 'mypy shim' mypy_part payload/dom0 payload/dom0/scrypt
check 'mypy guide' mypy_part payload/dom0 payload/dom0/guide/scrypt
check 'mypy shimctl' mypy_part payload/dom0 payload/dom0/shimctl payload/dom0/shimctl_lib \
    payload/dom0/dom0_common
check 'mypy qubes-dedup-backup' mypy_part payload/dom0:lab/dom0 \
    payload/dom0/qubes-dedup-backup payload/dom0/dedup_backup
check 'mypy backup_format' mypy_part payload payload/backup_format
check 'mypy dedup-store' mypy_part payload/qube payload/qube/dedup-store payload/qube/dedup_store
check 'mypy dedup-server' mypy_part payload/server payload/server/dedup-server payload/server/dedup_server
check 'mypy modules' mypy_part . library module_utils
check 'mypy lab' mypy_part lab lab/qubeslab
check 'mypy lab connection' mypy_part lab/connection lab/connection/lab.py
check 'mypy lab ansible' mypy_part lab/ansible lab/ansible
check 'mypy lab dom0' mypy_part lab/dom0 lab/dom0/qubesadmin lab/dom0/bin/qvm-tool \
    lab/dom0/bin/qubesctl lab/dom0/backup
check 'mypy lab qubesd-call' mypy_part lab/dom0 lab/dom0/lib/qubesd-call
for program in lab/dom0/bin/qrexec-client lab/qube/bin/qrexec-client-vm; do
    check "mypy $program" mypy_part lab/qube/lib "$program"
done
tested=.:lab:lab/dom0:lab/qube/lib:payload/qube:payload/dom0:payload/server
check 'mypy testing' mypy_part "$tested" testing
check 'mypy tests/upstream' mypy_part "$tested" tests/upstream
check 'mypy bench' mypy_part . bench/shim.py
check 'mypy bench/store' mypy_part "bench:$tested" bench/store.py
check 'mypy bench/distance' mypy_part "bench:$tested" bench/distance.py
check 'mypy bench/years' mypy_part "bench:$tested" bench/years.py
check 'mypy bench/borg_index' mypy_part bench bench/borg_index.py
check 'mypy tools' mypy_part tools tools/settings.py tools/salt_formula.py packaging/man.py
check 'yamllint' yamllint --strict .
check 'ansible-lint' ansible-lint --offline --strict -q
# shellcheck disable=SC2046 # names in this project have no spaces
check 'docs/settings.md' python3 tools/settings.py --check
# shellcheck disable=SC2046 # names in this project have no spaces
check 'shellcheck' shellcheck $(shell_files)
if [ -d salt ]; then
    # shellcheck disable=SC2046
    check 'salt-lint' salt-lint $(git ls-files 'salt/*.sls')
    # Salt and Qubes want these not to be called .sls, which is rule 205.
    # shellcheck disable=SC2046
    check 'salt-lint, others' salt-lint -x 205 $(git ls-files 'salt/*.jinja' 'salt/*.top')
    check 'formula' tools/salt_formula.py
    for folder in salt/_modules salt/_states lab/dom0/salt/_states lab/dom0/salt/_pillar; do
        check "mypy $folder" mypy_part lab/dom0 "$folder"
    done
fi
check 'files end and links' git diff --check "$(git hash-object -t tree /dev/null)" HEAD

if [ -n "$failed" ]; then
    printf 'lint: failed:%s\n' "$failed" >&2
    exit 1
fi
