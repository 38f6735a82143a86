#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# init.sh DISK SHARED REPOSITORY SOURCES...: make this mount namespace a stand-in dom0, then wait
# for the end of stdin. Its root is this machine's, under a layer in memory that takes all that is
# written; /var/lib/qubes, /home and /rw are on DISK, and the folder SHARED, with what is mounted
# below it, is there as it is here. It ends, and all in it, when stdin is closed.
set -eu
disk=$1
shared=$2
repository=$3

mount -t tmpfs -o mode=0755,size=4g tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mount --rbind /tmp tmp
mount -t tmpfs -o mode=0755 tmpfs run
shift 2
for folder in var/lib/qubes home rw; do
    mkdir -p "$folder" "$disk/$folder"
    mount --bind "$disk/$folder" "$folder"
done
show() { # folders may be on other filesystems
    mkdir -p "./$1"
    mount --rbind "$1" "./$1"
}
show "$disk"
for folder in "$@"; do
    show "$folder"
    mount -o remount,bind,ro "./$folder"
done
show "$shared" # it may be below one of those
mkdir -p old
pivot_root . old
umount -l old

sed -i '/^user:/d; 1i user:x:1000:1000::/home/user:/bin/bash' /etc/passwd
sed -i '/^user:/d; /^qubes:/d; 1i user:x:1000:\nqubes:x:98:user' /etc/group
sed -i '/^user:/d; 1i user:*:19000:0:99999:7:::' /etc/shadow # for sudo
echo 'user ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/user
echo 'Qubes release 4.3 (R4.3)' >/etc/qubes-release
mkdir -p /run/lock /run/qubes /var/log/qubes /etc/qubes/backup /etc/qubes-rpc /home/user \
    /usr/local/etc/qubes-rpc /usr/lib/qubes /usr/libexec/qubes
chown 1000:1000 /home/user /rw
chmod 0770 /etc/qubes/backup
touch /run/qubes/empty

# What a dom0 and a qube get from the packages of Qubes. The C programs have stand-ins in the lab.
here=$repository/tests/upstream/inside
ln -s "$here/qrexec_client.py" /usr/bin/qrexec-client
ln -s /usr/bin/qrexec-client /usr/lib/qubes/qrexec-client
cp "$repository/lab/dom0/lib/qfile-dom0-unpacker" /usr/libexec/qubes/
cp "$repository/lab/qube/lib/tar2qfile" /usr/lib/qubes/
cp -r "$repository/payload/qube" /usr/local/lib/dedup-store # a copy: tests set its CHUNK_BYTES
ln -s ../lib/dedup-store/dedup-store /usr/local/bin/dedup-store
echo ready
cat >/dev/null # not exec: the shell reaps what its parents left
