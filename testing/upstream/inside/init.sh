#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# init.sh DISK SHARED HOST REPOSITORY SOURCES...: make this mount namespace a stand-in dom0, then
# wait for the end of stdin. Of this machine it has /usr, without what Qubes or we put there, under
# a layer in memory that takes what is written; a few files of /etc; and /tmp, /dev and /sys as they
# are. All else is its own. /var/lib/qubes, /home and /rw are on DISK; the folder SHARED, with what
# is mounted below it, is there as it is here. HOST is `/`, or a folder that this machine's root is
# to have more. It ends, and all in it, when stdin is closed.
set -eu
disk=$1
shared=$2
host=$3
repository=$4
shift 3

mount -t tmpfs -o mode=0755,size=4g tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root /mnt/host
if [ "$host" != / ]; then
    cp -a "$host" /mnt/more # layers must not be within each other
    mount -t overlay -o lowerdir=/mnt/more:/ overlay /mnt/host
    host=/mnt/host
fi
mount --bind /mnt/root /mnt/root
cd /mnt/root
mkdir dev etc old proc root run sys tmp usr var
cp -P "$host/bin" "$host/sbin" "$host"/lib* .
mount -t overlay -o "lowerdir=$host/usr,upperdir=/mnt/upper,workdir=/mnt/work" overlay usr
mount -t tmpfs -o mode=0755 tmpfs usr/local
rm -rf usr/lib/qubes* usr/libexec/qubes* usr/share/qubes* usr/bin/qvm-* usr/bin/qubes* \
    usr/bin/qrexec-* usr/lib/python3*/*-packages/qubes* usr/lib/python3*/*-packages/qrexec*
if [ -e usr/bin/scrypt.bak ]; then # the shim is on this machine
    mv usr/bin/scrypt.bak usr/bin/scrypt
fi
for name in alternatives ld.so.cache ld.so.conf ld.so.conf.d login.defs magic mime.types \
    mke2fs.conf os-release protocols services ssl; do
    [ ! -e "$host/etc/$name" ] || cp -a "$host/etc/$name" etc/
done

mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mount --rbind /tmp tmp
mount -t tmpfs -o mode=0755 tmpfs run
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
pivot_root . old
umount -l old

printf '%s\n' 'root:x:0:0::/root:/bin/bash' 'user:x:1000:1000::/home/user:/bin/bash' \
    'nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin' >/etc/passwd
printf '%s\n' root:x:0: tty:x:5: disk:x:6: user:x:1000: qubes:x:98:user nogroup:x:65534: >/etc/group
printf '%s\n' 'root:*:19000:0:99999:7:::' 'user:*:19000:0:99999:7:::' >/etc/shadow
printf '%s: files\n' passwd group shadow hosts services protocols >/etc/nsswitch.conf
echo "127.0.0.1 localhost $(uname -n)" >/etc/hosts
printf '%s ALL=(ALL:ALL) NOPASSWD: ALL\n' root user >/etc/sudoers
chmod 0440 /etc/sudoers
mkdir /etc/pam.d
for service in other runuser su sudo; do
    printf '%s sufficient pam_permit.so\n' auth account password session >/etc/pam.d/$service
done
ln -s /proc/self/mounts /etc/mtab
echo 'Qubes release 4.3 (R4.3)' >/etc/qubes-release
mkdir -p /run/lock /run/qubes /var/cache /var/log/qubes /var/spool /etc/qubes/backup \
    /etc/qubes-rpc /etc/systemd/system/multi-user.target.wants /home/user /srv /usr/lib/qubes \
    /usr/libexec/qubes /usr/local/bin /usr/local/etc/qubes-rpc /usr/local/lib /usr/local/sbin
mkdir -m 1777 /var/tmp
ln -s ../run ../run/lock /var
chown 1000:1000 /home/user /rw
chmod 0770 /etc/qubes/backup
touch /run/qubes/empty

# What a dom0 and a qube get from the packages of Qubes. The C programs have stand-ins in the lab.
here=$repository/testing/upstream/inside
ln -s "$here/qrexec_client.py" /usr/bin/qrexec-client
ln -s /usr/bin/qrexec-client /usr/lib/qubes/qrexec-client
cp "$repository/lab/dom0/lib/qfile-dom0-unpacker" /usr/libexec/qubes/
cp "$repository/lab/qube/lib/tar2qfile" /usr/lib/qubes/
ln -s "$repository/payload/qube/dedup-store" /usr/local/bin/dedup-store
echo ready
cat >/dev/null # not exec: the shell reaps what its parents left
