#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Install what the lab and the tests need on a Debian machine; quick when all is there.
set -eu
cd "$(dirname "$0")/.."

packages='podman crun runc mmdebstrap debian-archive-keyring e2fsprogs util-linux dpkg-dev
python3-venv python3-yaml shellcheck strace sudo scrypt restic borgbackup procps zstd dbus-daemon
dbus-bin libglib2.0-bin rpm rpmlint rclone openssh-server iproute2
gcc pkg-config python3-dev libacl1-dev liblz4-dev libssl-dev libxxhash-dev libzstd-dev' # borg's build

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

missing=
for package in $packages; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "setup: installing Debian packages:$missing"
    log=$(mktemp)
    case "$missing " in
    *' openssh-server '*) # the tests start one of their own; this machine's stays off
        as_root mkdir -p /etc/systemd/system
        as_root ln -sf /dev/null /etc/systemd/system/ssh.service
        as_root ln -sf /dev/null /etc/systemd/system/ssh.socket
        ;;
    esac
    # shellcheck disable=SC2086 # a list of names
    if ! { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --yes --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo 'setup: apt-get failed; is this a Debian 12 or newer machine with a working mirror?' >&2
        exit 1
    fi
    rm -f "$log"
fi

if ! cmp -s requirements.txt .venv/requirements.txt; then
    names=$(sed -n 's/^\([A-Za-z][^ ]*\).*/\1/p' requirements.txt | tr '\n' ' ')
    echo "setup: installing a virtual environment in .venv: $names"
    rm -rf .venv
    /usr/bin/python3 -m venv .venv
    .venv/bin/pip install -qq --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/requirements.txt
fi
