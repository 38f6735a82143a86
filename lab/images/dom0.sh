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

# Debian's rpm keeps its database in the home folder; rpm >= 4.20 wants a private mount namespace;
# rpm >= 6 wants signatures.
mkdir -p "$tree/etc/rpm" "$tree/etc/yum.repos.d"
cat >"$tree/etc/rpm/macros" <<'END'
%_dbpath /var/lib/rpm
%__transaction_unshare %{nil}
%_pkgverify_level none
END
chroot "$tree" rpm --initdb
printf '[lab]\nname=lab\nbaseurl=file:///srv/rpm\ngpgcheck=0\n' >"$tree/etc/yum.repos.d/lab.repo"

# Debian 12's plugin has a typing error in a name.
plugin=$tree/usr/lib/python3/dist-packages/dnf-plugins/post-transaction-actions.py
if [ -e "$plugin" ]; then
    sed -i 's/ConfigParser_substitute/ConfigParser.substitute/' "$plugin"
fi

cp "$here/debian.spec" "$here/scrypt.spec" "$here/scrypt-rpm.sh" "$tree/tmp/"
# What Debian's packages give and rpm doesn't know.
chroot "$tree" rpmbuild -bb --quiet --define '_topdir /tmp/rpmbuild' --define '_rpmdir /srv/rpm' \
    /tmp/debian.spec
# scrypt from Debian's package becomes scrypt from an rpm.
version=$(chroot "$tree" dpkg-query --show --showformat="\${Version}" scrypt | sed "s/[^0-9.].*//")
chroot "$tree" /tmp/scrypt-rpm.sh /usr/bin/scrypt "$version" /srv/rpm
chroot "$tree" dpkg --purge scrypt
chroot "$tree" sh -c 'rpm --install /srv/rpm/*/*.rpm && rpm -V scrypt'
rm -rf "$tree/tmp/rpmbuild" "$tree"/tmp/*.spec "$tree/tmp/scrypt-rpm.sh"
