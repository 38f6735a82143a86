#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# dom0's own part: rpm and dnf with a local repository, and scrypt from an rpm.
set -eu
tree=$1
here=$(dirname "$0")
"$here/base.sh" "$tree"
chroot "$tree" usermod --append --groups qubes user
# The first member of group qubes is dom0's user: qubes-core-admin qubes/backup.py get_files_to_backup.
install -d -m 0775 -g 98 "$tree/etc/qubes/policy.d" "$tree/etc/qubes/policy.d/include"
install -d -m 0770 -g 98 "$tree/etc/qubes/backup"
install -d -m 0755 "$tree/etc/qubes-rpc" "$tree/var/lib/qubes" "$tree/srv/rpm"
printf 'Qubes release 4.3 (lab)\n' >"$tree/etc/qubes-release"
printf 'L+ /run/qubesd.sock - - - - /run/qubes-lab/qubesd.sock\n' >"$tree/usr/lib/tmpfiles.d/qubes-lab.conf"

# Debian's rpm keeps its database in the home folder; rpm >= 4.20 wants a private mount namespace.
mkdir -p "$tree/etc/rpm" "$tree/etc/yum.repos.d"
printf '%%_dbpath /var/lib/rpm\n%%__transaction_unshare %%{nil}\n' >"$tree/etc/rpm/macros"
chroot "$tree" rpm --initdb
printf '[lab]\nname=lab\nbaseurl=file:///srv/rpm\ngpgcheck=0\n' >"$tree/etc/yum.repos.d/lab.repo"

version=$(chroot "$tree" dpkg-query --show --showformat="\${Version}" scrypt | sed "s/[^0-9.].*//")
mkdir -p "$tree/tmp/scrypt"
cp "$tree/usr/bin/scrypt" "$tree/tmp/scrypt/"
printf '.TH scrypt 1\n' | gzip -n >"$tree/tmp/scrypt/scrypt.1.gz"
cp "$here/scrypt.spec" "$tree/tmp/"
chroot "$tree" rpmbuild -bb --quiet --define '_topdir /tmp/rpmbuild' \
    --define '_rpmdir /srv/rpm' --define '_build_id_links none' --define 'debug_package %{nil}' --define '__os_install_post %{nil}' \
    --define "scrypt_version $version" --define 'scrypt_release 1.fc41' \
    --define 'scrypt_source /tmp/scrypt' /tmp/scrypt.spec
chroot "$tree" dpkg --purge scrypt
chroot "$tree" createrepo_c --quiet /srv/rpm
chroot "$tree" sh -c 'rpm --install --nodeps /srv/rpm/*/scrypt-*.rpm && rpm -V scrypt'
rm -rf "$tree/tmp/scrypt" "$tree/tmp/rpmbuild" "$tree/tmp/scrypt.spec"
