#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Make the scrypt package that dom0 has: scrypt-rpm.sh PROGRAM VERSION FOLDER, in dom0.
set -eu
program=$1 version=$2 folder=$3
here=$(dirname "$0")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp "$program" "$scratch/scrypt"
printf '.TH scrypt 1\n' | gzip -n >"$scratch/scrypt.1.gz"
rpmbuild -bb --quiet --define "_topdir $scratch/rpmbuild" --define "_rpmdir $folder" \
    --define '_build_id_links none' --define 'debug_package %{nil}' \
    --define '__os_install_post %{nil}' --define "scrypt_source $scratch" \
    --define "scrypt_version $version" --define 'scrypt_release 1.fc41' "$here/scrypt.spec"
createrepo_c --quiet "$folder"
