#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Fetch the engines of Debian 13, which a backup template has, into .cache/debian13/bin; quick when
# they are there. Tests marked `engines` run with them.
set -eu
cd "$(dirname "$0")/.."
mirror=${LAB_DEBIAN_MIRROR:-http://deb.debian.org/debian}
borg='borgbackup==1.4.0' # as in Debian 13; its package needs Debian 13's Python
target=.cache/debian13

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

if [ "$(cat "$target/made" 2>/dev/null || true)" = "$borg" ]; then exit 0; fi
echo 'setup: fetching the engines of Debian 13'
as_root rm -rf "$target"
mkdir -p "$target/bin"
/usr/bin/python3 -m venv "$target/borg"
"$target/borg/bin/pip" install -qq --disable-pip-version-check "$borg" &
# mmdebstrap checks Debian's signatures
as_root mmdebstrap --quiet --variant=extract --include=restic trixie "$target/debian" "$mirror"
wait $!
ln -s ../debian/usr/bin/restic ../borg/bin/borg "$target/bin/"
PATH=$PWD/$target/bin:$PATH
case $(restic version) in
'restic 0.18.'*) ;;
*)
    echo 'engines: this is not the restic of Debian 13' >&2
    exit 1
    ;;
esac
borg --version >/dev/null
echo "$borg" >"$target/made"
