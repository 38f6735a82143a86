# SPDX-License-Identifier: GPL-3.0-or-later
"""The attached device that a repository may be on.

/etc/fstab has a line for it, with the option `user`, so that an ordinary user's `mount` may do it;
the role backup_qube has it written at each start of the qube.
"""

import contextlib
import os
import subprocess
import time
from pathlib import Path

from dedup_store.config import Config
from dedup_store.errors import StoreError, UsageError, clean
from dedup_store.processes import environment

FSTAB = Path("/etc/fstab")
# A qube takes calls before it has run rc.local.d (qubes-core-agent-linux vm-systemd/
# qubes-qrexec-agent.service isn't ordered after qubes-misc-post.service); this one may be the call
# that started it.
_START_SECONDS = 60


def require(config: Config) -> None:
    """Mount the profile's device, unless it is mounted; it stays so at least until we end.

    Raises:
        UsageError: this qube isn't prepared for it.
        StoreError: it isn't attached, or can't be mounted.
    """
    path = config.mount_point
    if path is None or _hold(path):
        return
    while not (is_ready := path.is_dir() and _is_in_fstab(path)) and _is_starting():
        time.sleep(0.1)
    if not is_ready:
        raise UsageError(
            f"this qube is not prepared for the device {config.device}: {path} must exist and have"
            " a line in /etc/fstab, which the role backup_qube sees to at each start of the qube"
        )
    result = subprocess.run(
        ["/usr/bin/mount", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        check=False,
    )
    if not _hold(path):
        said = clean(result.stderr.decode(errors="replace"), 200)
        raise StoreError(
            f"no file system labelled {config.device} is attached: attach it in dom0 with"
            f" `qvm-block attach QUBE DEVICE`, and try again ({said})"
        )


def make_folder(config: Config) -> None:
    """Make the folder on the device that holds the repository.

    Raises:
        UsageError: the file system doesn't let us.
    """
    path = config.mount_point
    if path is None:
        return
    try:
        Path(config.repository).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{error.filename} can't be made: {error.strerror}. Make it yourself, once, as root in"
            f" this qube: `install -d -o user -m 700 {path}/dedup-store`"
        ) from None


def _hold(path: Path) -> bool:
    """Tell whether something is mounted there; keep it from being unmounted as long as we live."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    if os.fstat(fd).st_dev != path.parent.stat().st_dev:
        return True  # the descriptor stays open
    os.close(fd)
    return False


def _is_starting() -> bool:
    return time.clock_gettime(time.CLOCK_BOOTTIME) < _START_SECONDS


def _is_in_fstab(path: Path) -> bool:
    with contextlib.suppress(OSError):
        lines = FSTAB.read_text(encoding="utf-8", errors="replace").splitlines()
        return any(line.split()[1:2] == [str(path)] for line in lines)
    return False
