#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Lay the Salt formula down as real files: Salt refuses links that leave its file root. Its argument
# is the folder, in dom0 /srv/user_salt. What is there of an earlier version is replaced.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
target=${1:?the folder, for example /srv/user_salt}
mkdir -p "$target"
for part in dedup-backup _utils/dedup_provision; do
    rm -rf "${target:?}/$part"
done
mkdir -p "$target/_modules" "$target/_states" "$target/_utils"
cp -RL "$here/salt/dedup-backup" "$target/"
cp -RL "$here/salt/_utils/dedup_provision" "$target/_utils/"
cp -L "$here"/salt/_modules/*.py "$target/_modules/"
cp -L "$here"/salt/_states/*.py "$target/_states/"
find "$target/dedup-backup" "$target/_utils/dedup_provision" -name __pycache__ -prune \
    -exec rm -rf {} +
