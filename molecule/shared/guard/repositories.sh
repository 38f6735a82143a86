#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# In dom0: repositories beside `lab`, which has the scrypt that is installed. None is enabled.
#   new: a later scrypt;  broken: one whose prompts are others;  own, own-next: our RPM
set -eu
project=/srv/qubes-dedup-backup
version=$(rpm --query --queryformat '%{VERSION}' scrypt)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The same program with other strings of the same length; each has to be found.
patched() {
    LC_ALL=C sed "s/$1/$2/" "$3" >"$4"
    chmod 0755 "$4"
    if cmp -s "$3" "$4"; then
        echo "repositories.sh: no '$1' in $3" >&2
        exit 1
    fi
}
patched "$(echo "$version" | sed 's/\./\\./g')" 1.4.0 /usr/bin/scrypt "$scratch/new"
patched '1\.4\.0' 1.5.0 "$scratch/new" "$scratch/later"
patched 'Please enter passphrase' 'Please write passphrase' "$scratch/later" "$scratch/broken"
"$project/lab/images/scrypt-rpm.sh" "$scratch/new" 1.4.0 /srv/rpm-new
"$project/lab/images/scrypt-rpm.sh" "$scratch/broken" 1.5.0 /srv/rpm-broken

for name in own own-next; do
    mkdir -p "/srv/rpm-$name"
    cp "$project/.lab/cache/$name"/*.rpm "/srv/rpm-$name/"
    createrepo_c --quiet "/srv/rpm-$name"
done
for name in new broken own own-next; do
    printf '[%s]\nname=%s\nbaseurl=file:///srv/rpm-%s\ngpgcheck=0\nenabled=0\n' \
        "$name" "$name" "$name" >"/etc/yum.repos.d/$name.repo"
done
