#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Run the qube's own start scripts, as root: those in rc.local.d first.
# Stand-in for qubes-core-agent-linux vm-systemd/misc-post.sh.

for script in /rw/config/rc.local.d/*.rc /rw/config/rc.local; do
    if [ -f "$script" ] && [ -x "$script" ]; then
        "$script"
    fi
done
