#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Lint, syntax and one molecule scenario under ansible-core 2.16; all else is tested under the one
# of requirements.txt.
set -eu
cd "$(dirname "$0")/.."
scenario=backup_profile
if ! cmp -s requirements-2.16.txt .venv-2.16/requirements-2.16.txt; then
    echo 'ansible-2.16: installing a virtual environment in .venv-2.16'
    rm -rf .venv-2.16
    /usr/bin/python3 -m venv .venv-2.16
    .venv-2.16/bin/pip install -qq --disable-pip-version-check -r requirements-2.16.txt
    cp requirements-2.16.txt .venv-2.16/
fi
PATH=$PWD/.venv-2.16/bin:$PATH
export ANSIBLE_CONFIG="$PWD/ansible.cfg" ANSIBLE_COLLECTIONS_PATH="$PWD/lab/ansible"
case $(ansible-playbook --version) in
*'core 2.16.'*) ;;
*)
    echo 'ansible-2.16: .venv-2.16 has another version: remove it and try again' >&2
    exit 1
    ;;
esac
echo 'ansible-2.16: ansible-lint'
ansible-lint --offline --strict -q
echo 'ansible-2.16: syntax of all playbooks'
ansible-playbook --syntax-check -i inventory.example playbooks/*.yml >/dev/null
VENV=.venv-2.16 tools/molecule.sh "$scenario"
