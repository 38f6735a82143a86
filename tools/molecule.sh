#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Run the molecule scenarios that are named, or else all but the guard's; as root, as the lab's
# containers are root's. `guard` alone stands for all of the guard's, which take longer. VENV names
# another virtual environment than .venv.
set -eu
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
    exec sudo "PATH=$PATH" "VENV=${VENV:-.venv}" "$0" "$@"
fi
PATH=$PWD/${VENV:-.venv}/bin:$PATH
export ANSIBLE_CONFIG="$PWD/ansible.cfg"
# What molecule remembers of an earlier run, which may have been interrupted, isn't looked at.
# The guard's scenarios may run at the same time as the others.
LAB_NAME=molecule
case ${1:-} in guard*) LAB_NAME=molecule-guard ;; esac
export LAB_NAME
MOLECULE_EPHEMERAL_DIRECTORY=$(mktemp -d)
export MOLECULE_EPHEMERAL_DIRECTORY
trap 'rm -rf "$MOLECULE_EPHEMERAL_DIRECTORY"' EXIT
skipped=
wanted="$*"
if [ "$wanted" = guard ] || [ -z "$wanted" ]; then
    all=
    for file in molecule/*/molecule.yml; do
        scenario=$(basename "$(dirname "$file")")
        case $scenario/$wanted in
            guard-*/guard) all="$all $scenario" ;;
            guard-*/ | */guard) ;;
            *) all="$all $scenario" ;;
        esac
    done
    wanted=$all
fi
for scenario in $wanted; do
    if ! [ -e "molecule/$scenario/molecule.yml" ]; then
        echo "molecule: there is no scenario $scenario" >&2
        exit 2
    fi
done
for scenario in $wanted; do
    # Debian's sid is another system every day, and on some days can't be installed.
    if [ "$scenario" = guard-sid ] && ! lab/lab build --suite sid; then
        skipped="$skipped $scenario"
        continue
    fi
    printf 'molecule: %s\n' "$scenario"
    molecule test --scenario-name "$scenario"
done
for scenario in $skipped; do
    printf 'molecule: SKIPPED: %s: no image of Debian sid could be made (see above); ' "$scenario"
    printf 'dnf 5 was NOT tested\n'
done
