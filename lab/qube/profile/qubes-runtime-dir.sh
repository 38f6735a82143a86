# SPDX-License-Identifier: GPL-3.0-or-later
# Where a session keeps what ends with it. Stands for pam_systemd(8), which qubes-core-qrexec
# agent/qrexec-agent.c (do_exec) goes through for each service; the lab has no sessions.
if [ -d "/run/user/$(id -u)" ]; then
    XDG_RUNTIME_DIR=/run/user/$(id -u)
    export XDG_RUNTIME_DIR
fi
