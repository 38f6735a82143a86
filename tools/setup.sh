#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Install what the lab needs on a Debian machine, or with the argument `tests` also what only the
# unit tests need, with `bench` what only the benchmark needs, with `upstream` what the real Qubes
# needs; quick when all is there.
set -eu
cd "$(dirname "$0")/.."

packages='podman crun runc mmdebstrap debian-archive-keyring e2fsprogs util-linux dpkg-dev
python3-venv python3-yaml shellcheck strace sudo scrypt restic borgbackup procps zstd dbus-daemon
dbus-bin libglib2.0-bin rpm rpmlint'
# The last line is for borg's build.
test_packages='rclone fuse3 openssh-server iproute2 btrfs-progs
gcc pkg-config python3-dev libacl1-dev liblz4-dev libssl-dev libxxhash-dev libzstd-dev'

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
    missing=
    for package in "$@"; do
        state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$state" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    echo "setup: installing Debian packages:$missing"
    case "$missing " in
    *' openssh-server '*)
        echo 'setup: ssh.service and ssh.socket of this machine stay off: they are masked'
        as_root mkdir -p /etc/systemd/system
        as_root ln -sf /dev/null /etc/systemd/system/ssh.service
        as_root ln -sf /dev/null /etc/systemd/system/ssh.socket
        ;;
    esac
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of names
    if ! { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --yes --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo 'setup: apt-get failed; is this a Debian 12 or newer machine with a working mirror?' >&2
        exit 1
    fi
    rm -f "$log"
}

install_python() { # its argument: a file of requirements
    if ! cmp -s "$1" ".venv/$1"; then
        names=$(sed -n 's/^\([A-Za-z][^ ]*\).*/\1/p' "$1" | tr '\n' ' ')
        echo "setup: installing into the virtual environment .venv: $names"
        .venv/bin/pip install -qq --disable-pip-version-check -r "$1"
        cp "$1" ".venv/$1"
    fi
}

# shellcheck disable=SC2086 # a list of names
install_packages $packages
if ! cmp -s requirements.txt .venv/requirements.txt; then
    rm -rf .venv
    /usr/bin/python3 -m venv .venv
fi
install_python requirements.txt
if [ "${1-}" = tests ]; then
    # shellcheck disable=SC2086 # a list of names
    install_packages $test_packages
    install_python requirements-tests.txt
    tools/engines.sh
fi
if [ "${1-}" = upstream ]; then
    wanted=tests/upstream/requirements.txt
    if ! cmp -s "$wanted" .venv-upstream/requirements.txt; then
        echo 'setup: installing a virtual environment in .venv-upstream'
        rm -rf .venv-upstream
        /usr/bin/python3 -m venv .venv-upstream
        .venv-upstream/bin/pip install --quiet --disable-pip-version-check -r "$wanted"
        cp "$wanted" .venv-upstream/requirements.txt
    fi
fi
if [ "${1-}" = bench ]; then
    install_packages btrfs-progs gawk # the latter for wyng
    install_python requirements-bench.txt
    tools/bench-root.sh
fi
