# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths; qubes-core-admin-client qubesadmin/config.py."""

QUBESD_SOCKET = "/var/run/qubesd.sock"
QREXEC_CLIENT = "/usr/bin/qrexec-client"
QREXEC_SERVICES_DIR = "/etc/qubes-rpc"
SHUTDOWN_TIMEOUT = 60
