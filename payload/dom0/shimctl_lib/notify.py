# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages to people, in the journal and on the desktop. They never fail and never wait.

Messages are ours; what other programs said in them went through clean().
"""

import contextlib
import json
import os
import pwd
import socket
import stat
import subprocess
import time

from dom0_common.paths import Paths

from shimctl_lib.system.programs import ENVIRONMENT

WARNING, NOTICE = 4, 5  # syslog's levels (RFC 5424, section 6.2.1)
SECONDS = 3
TITLE = "qubes-dedup-backup"


def journal(at: Paths, level: int, text: str) -> None:
    """Write a line to the journal."""
    line = f"<{8 + level}>shimctl[{os.getpid()}]: {text}"  # 8: facility user
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as log:
        log.sendto(line.encode(errors="replace"), str(at.log))


def desktop(at: Paths, text: str, *, urgent: bool) -> None:
    """Show text to whoever is logged in; give up after SECONDS."""
    with contextlib.suppress(OSError):
        started = [
            process
            for bus in sorted(at.sessions.glob("[0-9]*/bus"))[:8]
            if (process := _show(bus.parent.name, str(bus), text, urgent=urgent)) is not None
        ]
        deadline = time.monotonic() + SECONDS
        for process in started:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _show(uid: str, bus: str, text: str, *, urgent: bool) -> subprocess.Popen[bytes] | None:
    """Start the program that shows a notification, as the user of this session bus."""
    with contextlib.suppress(OSError, KeyError, ValueError, subprocess.SubprocessError):
        user = pwd.getpwuid(int(uid))
        status = os.lstat(bus)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != user.pw_uid:
            return None
        return subprocess.Popen(
            _command(text, urgent=urgent),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**ENVIRONMENT, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}"},
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            start_new_session=True,
        )
    return None


def _command(text: str, *, urgent: bool) -> list[str]:
    """Return gdbus' argv for Notify (Desktop Notifications Specification)."""
    markup = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    name = "org.freedesktop.Notifications"
    call = ["gdbus", "call", "--session", f"--timeout={SECONDS}", f"--dest={name}"]
    call += ["--object-path=/org/freedesktop/Notifications", f"--method={name}.Notify", "--"]
    hints = "{'urgency': <byte 2>}" if urgent else "{}"
    # In GVariant's text format, where a JSON string is a string as well.
    title = json.dumps(TITLE)
    arguments = [title, "uint32 0", '""', title, json.dumps(markup), "@as []"]
    return [*call, *arguments, f"@a{{sv}} {hints}", "int32 -1"]
