# SPDX-License-Identifier: GPL-3.0-or-later
"""The scrypt that each caller would run, and callers that find another one before the shim."""

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from dom0_common.paths import SHIM, Paths

from shimctl_lib.system import programs

# Folders that a PATH names before /usr/bin: systemd's default (src/basic/path-util.h), which qubesd
# has, and sudo's secure_path in Fedora; and what login shells put first (Fedora's ~/.bashrc).
SYSTEM = ("usr/local/sbin", "usr/local/bin", "usr/sbin")
HOMES = ("root", "home/*")
PERSONAL = (".local/bin", "bin")


def _folders(at: Paths) -> Iterator[Path]:
    for home in HOMES:
        for found in sorted(at.root.glob(home)):
            yield from (found / folder for folder in PERSONAL)
    yield from (at.root / folder for folder in SYSTEM)


def _program(path: Path) -> os.stat_result | None:
    """Return the status of what execvp would run at path; None if it would go on."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111 else None


def others(at: Paths) -> list[Path]:
    """Return each scrypt that some caller finds before /usr/bin/scrypt, by name alone.

    The shim of method `path` is among them. What leads to /usr/bin/scrypt, or to the shim as it was
    laid down, is not: it is the same program.
    """
    same = [status for status in map(_program, (at.scrypt, SHIM)) if status]
    found = []
    for folder in _folders(at):
        status = _program(folder / "scrypt")
        if status and not any(os.path.samestat(status, known) for known in same):
            found.append(folder / "scrypt")
    return found


def everyone(at: Paths) -> list[Path]:
    """Return what qubesd and dom0's user find by their PATH, then the result of `others`.

    It asks login shells, so it takes a second on the running system.
    """
    known = others(at)
    same = [status for status in map(_program, (at.scrypt, SHIM)) if status]
    asked = []
    for program in callers(at).values():
        status = _program(Path(program)) if program else None
        if program and status and not any(os.path.samestat(status, item) for item in same):
            asked.append(Path(program))
    return [*dict.fromkeys(path for path in asked if path not in known), *known]


def _qubesd_path() -> str | None:
    """Return qubesd's PATH: of the running one, else what systemd would set."""
    main = programs.run(["systemctl", "show", "--property=MainPID", "--value", "qubesd.service"])
    if main and main[0] == 0 and main[1].strip() not in (b"", b"0"):
        try:
            environ = Path(f"/proc/{int(main[1])}/environ").read_bytes()
        except (OSError, ValueError):
            return None
    else:
        unit = programs.run(
            ["systemctl", "show", "--property=Environment", "--value", "qubesd.service"]
        )
        manager = programs.run(["systemctl", "show-environment"])
        parts = (manager[1] if manager else b"").split(b"\n") + (unit[1] if unit else b"").split()
        environ = b"\0".join(parts)
    paths = [item[5:].decode() for item in environ.split(b"\0") if item.startswith(b"PATH=")]
    return paths[-1] if paths else None


def _user() -> str | None:
    """Return dom0's user as Qubes finds it (qubes/backup.py get_files_to_backup)."""
    try:
        return grp.getgrnam("qubes").gr_mem[0]
    except (KeyError, IndexError):
        return None


def _shell_path(user: str, command: str) -> str | None:
    """Return a command's output in a login shell of user; only root and the user can ask."""
    account = pwd.getpwnam(user)
    if os.geteuid() == 0:
        argv = ["runuser", "--login", user, "--command", command]
    elif os.geteuid() == account.pw_uid:
        argv = [account.pw_shell or "/bin/sh", "-l", "-c", command]
    else:
        return None
    done = programs.run(argv, environment={"HOME": account.pw_dir, "USER": user})
    return done[1].decode(errors="replace").strip() if done and done[0] == 0 else None


def callers(at: Paths) -> dict[str, str | None]:
    """Return for each caller the scrypt that it would run, None where that is unknown."""
    if not at.live:
        return {}
    user = _user()
    paths = {"qubesd": _qubesd_path()}
    if user is not None:
        paths["login shell"] = _shell_path(user, "printenv PATH")
        paths["sudo"] = _shell_path(user, "sudo -n printenv PATH")
    return {who: shutil.which("scrypt", path=path) if path else None for who, path in paths.items()}
