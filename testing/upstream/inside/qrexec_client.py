#!/usr/bin/python3 -I
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a service of a qube for dom0: qrexec-client [-t] [-T] [-w N] -d QUBE USER:QUBESRPC NAME SRC.

Stands for the transport alone (qubes-core-qrexec daemon/qrexec-client.c, with the service lookup of
lib/qubes-rpc-multiplexer): all qubes share one filesystem here, and the services of qubes are in
/usr/local/etc/qubes-rpc, those of dom0 in /etc/qubes-rpc.
"""

import getopt
import os
import subprocess
import sys
from pathlib import Path

SERVICES = Path("/usr/local/etc/qubes-rpc")


def main() -> int:
    """Run the service as the qube's user, and return its status."""
    options, words = getopt.gnu_getopt(sys.argv[1:], "d:tTw:W")
    if "-d" not in dict(options) or len(words) != 1:
        print(f"qrexec-client: unexpected call: {sys.argv}", file=sys.stderr)
        return 125
    user, _, command = words[0].partition(":")
    kind, service, source = command.split(" ")[:3]
    if kind != "QUBESRPC":
        print(f"qrexec-client: no service call: {command}", file=sys.stderr)
        return 125
    name, _, argument = service.partition("+")
    found = next((path for path in (SERVICES / service, SERVICES / name) if path.exists()), None)
    if found is None:
        return 127
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/home/user",
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": "/run/user/1000",  # from pam_systemd in a qube
        "QREXEC_REMOTE_DOMAIN": source,
        "QREXEC_SERVICE_FULL_NAME": service,
        "QREXEC_SERVICE_ARGUMENT": argument,
    }
    account = "user" if user == "DEFAULT" else user
    arguments = [str(found)] + ([argument] if argument else [])
    runuser = ["/sbin/runuser", "-u", account, "--", *arguments]
    service_process = subprocess.Popen(runuser, env=environment, start_new_session=True)
    for descriptor in range(3):  # only the service has them, and it outlives us, as in a qube
        os.close(descriptor)
    status = service_process.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    os._exit(main())
