#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Run every molecule scenario; as root, as the lab's containers are root's.
set -eu
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
    exec sudo "PATH=$PATH" "$0" "$@"
fi
PATH=$PWD/.venv/bin:$PATH
export ANSIBLE_CONFIG="$PWD/ansible.cfg"
for file in molecule/*/molecule.yml; do
    scenario=$(basename "$(dirname "$file")")
    printf 'molecule: %s\n' "$scenario"
    molecule test --scenario-name "$scenario"
done
