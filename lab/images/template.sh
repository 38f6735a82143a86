#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# The template's own part. LAB_REPOSITORY is a folder on the host: it gets the packages that the lab's
# templates may install, with all they need, as Debian signed them; templates see it at /srv/debian.
set -eu
tree=$1
here=$(dirname "$0")
"$here/base.sh" "$tree"
install -d -m 0755 "$tree/etc/qubes-rpc" "$tree/usr/lib/qubes" "$tree/rw" "$tree/srv/debian"
printf 'deb [trusted=yes] file:/srv/debian ./\n' >"$tree/etc/apt/sources.list.d/lab.list"
cp "$LAB_REPOSITORY"/*.deb "$tree/srv/debian/" 2>/dev/null || true
mv "$tree"/var/cache/apt/archives/*.deb "$LAB_REPOSITORY/"
rm -f "$tree"/etc/apt/sources.list "$tree"/srv/debian/*.deb "$tree"/var/lib/apt/lists/*_*
(cd "$LAB_REPOSITORY" && dpkg-scanpackages --multiversion . /dev/null >Packages 2>/dev/null)
