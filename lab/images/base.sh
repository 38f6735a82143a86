#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# What dom0 and the template have in common; mmdebstrap runs it with the new tree as its argument.
# The user and its rights: qubes-core-agent-linux passwordless-root/, qubes-core-admin-linux
# system-config/qubes.sudoers.
set -eu
tree=$1
chroot "$tree" groupadd --gid 98 qubes
chroot "$tree" useradd --create-home --uid 1000 --user-group --shell /bin/bash user
printf 'user ALL=(ALL) NOPASSWD: ALL\n' >"$tree/etc/sudoers.d/qubes"
chmod 0440 "$tree/etc/sudoers.d/qubes"
# A container has no devices, clock or log-in screens to look after.
chroot "$tree" systemctl mask --quiet \
    systemd-udevd.service systemd-timesyncd.service systemd-logind.service \
    getty.target console-getty.service systemd-firstboot.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    fstrim.timer systemd-random-seed.service dev-hugepages.mount
rm -f "$tree/etc/machine-id" "$tree/etc/resolv.conf"
: >"$tree/etc/machine-id"
