#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Fetch Salt for the lab into .cache/salt/VERSION; quick when it is there. It is for the lab's dom0
# and templates, which see it through the checkout: Debian 13 with Python 3.13. Its arguments are the
# versions, by default all that requirements-salt.txt names.
set -eu
cd "$(dirname "$0")/.."
PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_DISABLE_PIP_VERSION_CHECK
if [ $# -eq 0 ]; then
    # shellcheck disable=SC2046 # a list of versions
    set -- $(sed -n 's/^# salt==//p' requirements-salt.txt)
fi

for version; do
    target=.cache/salt/$version
    if cmp -s requirements-salt.txt "$target/requirements-salt.txt"; then continue; fi
    echo "setup: fetching Salt $version for the lab"
    rm -rf "$target"
    scratch=$(mktemp -d)
    # Salt has no wheel, and is no part of any environment on this machine.
    .venv/bin/pip wheel -qq --no-deps --wheel-dir "$scratch" "salt==$version"
    .venv/bin/pip install -qq --no-deps --target "$target" --python-version 3.13 \
        --only-binary=:all: -r requirements-salt.txt "$scratch"/salt-*.whl
    rm -rf "$scratch"
    cp requirements-salt.txt "$target/"
done
