#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Build our RPM into .lab/cache/own, and into .lab/cache/own-next a later version whose shim and
# guard differ by a comment.
set -eu
cd "$(dirname "$0")/../../.."
packaging/build .lab/cache/own
next=$(mktemp -d)
trap 'rm -rf "$next"' EXIT
git ls-files -z | xargs -0 cp --parents --no-dereference --target-directory="$next"
out=$PWD/.lab/cache/own-next
cd "$next"
sed -i 's/^version = ".*"$/version = "99.0"/' pyproject.toml
for file in payload/dom0/scrypt $(git -C "$OLDPWD" ls-files payload/dom0/guard); do
    echo '# a later version' >>"$file"
done
git init --quiet
git add --all
git -c user.name=test -c user.email=test@localhost commit --quiet --message=next
packaging/build "$out"
