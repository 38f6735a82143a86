#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Make a root of Debian 13 in .cache/bench-root, with what a backup qube has of it: its Python and
# engines, which `make bench` measures; quick when it is there.
set -eu
cd "$(dirname "$0")/.."
mirror=${LAB_DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=python3,restic,borgbackup,fuse3 # roles/backup_template/defaults/main.yml
target=.cache/bench-root

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

if [ "$(cat "$target/made" 2>/dev/null || true)" = "$packages" ]; then exit 0; fi
echo 'setup: making a root of Debian 13 for the benchmark'
as_root rm -rf "$target"
# mmdebstrap checks Debian's signatures
as_root mmdebstrap --quiet --variant=minbase "--include=$packages" trixie "$target" "$mirror"
echo "$packages" | as_root tee "$target/made" >/dev/null
