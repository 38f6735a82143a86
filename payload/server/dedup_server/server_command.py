# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of an engine's own server, and which versions of it are safe."""

import hashlib
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

from dedup_server.config import Repository, Ssh
from dedup_server.engines import borg_locks
from dedup_server.errors import StorageError, UsageError
from dedup_server.folder.files import FLUSH

# CVE-2023-36811: archives can be faked
BORG_MIN = (1, 2, 5)
# GHSA-45pq-889g-fcgh: `serve restic` takes `../` in paths, and most remotes follow it; the local
# disk isn't affected, since rclone writes such names differently there
RCLONE_MIN = (1, 75, 0)
# in memory: ssh gives up when it can't make its socket, as on a full disk
_SOCKETS = "/dev/shm/dedup-server-{uid}"  # noqa: S108 -- connection_socket looks whose it is
_KEPT_SECONDS = 20


def environment() -> dict[str, str]:
    """Return the environment for engines; of the caller's, it has HOME and PATH only."""
    home = os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    return {
        "HOME": home,
        "PATH": os.environ.get("PATH") or os.defpath,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "BORG_HOST_ID": borg_locks.host_id(),
    }


def build(repository: Repository, *, append_only: bool, is_used: bool = True) -> list[str]:
    """Return the command line of an engine's server.

    Args:
        repository: to serve.
        append_only: whether the server must refuse removals.
        is_used: whether the client asks it something; else what is sent to another machine only
            writes what is there to the disk.

    Raises:
        StorageError: its program is missing, or too old to be safe.
        UsageError: the place isn't usable.
    """
    ssh = repository.ssh
    if ssh:
        return _ssh_command(repository, ssh, append_only=append_only, is_used=is_used)
    _require_version(repository)
    config = repository.rclone_config
    if repository.folder:
        _require_folder(repository, repository.folder)
        target = str(repository.folder / repository.name)
        # without a configuration rclone says so at each start, and the local disk needs none
        config = config or os.devnull
    else:
        remote = str(repository.remote)  # `far:` is another folder than `far:/`
        target = f"{remote}{'' if remote.endswith((':', '/')) else '/'}{repository.name}"
    return _server(repository, target, append_only=append_only, rclone_config=config)


def _server(
    repository: Repository, target: str, *, append_only: bool, rclone_config: str | None = None
) -> list[str]:
    only = ["--append-only"] if append_only else []
    if repository.engine == "borg":
        return ["borg", "serve", *only, "--restrict-to-repository", target]
    config = ["--config", rclone_config] if rclone_config else []
    return ["rclone", "serve", "restic", "--stdio", *only, *config, target]


def _ssh_command(
    repository: Repository, ssh: Ssh, *, append_only: bool, is_used: bool
) -> list[str]:
    """Run the engine's server on another machine, whose shell takes one string."""
    target = f"{ssh.folder.rstrip('/')}/{repository.name}"
    server = _server(repository, target, append_only=append_only)
    steps = [f"cd {shlex.quote(ssh.folder)}"]
    if repository.engine == "restic":
        steps.append(f"{FLUSH} .")
    if is_used:
        steps.append(f"exec {shlex.join(server)}")
    remote = " && ".join(steps)
    argv = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    argv += ["-o", "ForwardAgent=no", "-o", "ForwardX11=no", "-o", "ServerAliveInterval=60"]
    if socket := connection_socket(repository):
        argv += ["-o", "ControlMaster=auto", "-o", f"ControlPath={socket}"]
        argv += ["-o", f"ControlPersist={_KEPT_SECONDS}"]
    if repository.ssh_config:
        argv += ["-F", repository.ssh_config]
    if ssh.port:
        argv += ["-p", ssh.port]
    return [*argv, "--", ssh.target, remote]


def connection_socket(repository: Repository) -> Path | None:
    """Return the socket of the connection that a repository's sessions share; None without.

    A new connection takes seven round trips. ssh keeps it in a process of its own, until some
    seconds after the last session (ssh_config(5), ControlPersist). It is the repository's alone:
    another one may have another key.
    """
    folder = Path(_SOCKETS.format(uid=os.geteuid()))
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o77:
        return None
    who = (environment()["HOME"], repository.name, repository.place, repository.ssh_config or "")
    return folder / hashlib.sha256("\0".join(who).encode()).hexdigest()[:32]


def _require_version(repository: Repository) -> None:
    """Refuse a program that isn't safe to give to a hostile client.

    Raises:
        StorageError: with the version that is needed.
    """
    program = "borg" if repository.engine == "borg" else "rclone"
    if not shutil.which(program, path=environment()["PATH"]):
        raise StorageError(f"{program} is not installed here (not found in PATH)")
    if repository.engine == "restic" and not repository.remote:
        return
    option = "--version" if program == "borg" else "version"
    minimum = BORG_MIN if program == "borg" else RCLONE_MIN
    result = subprocess.run(
        [program, option], capture_output=True, check=False, env=environment(), timeout=120
    )
    words = result.stdout.decode(errors="replace").split()
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?(.*)", words[1]) if len(words) > 1 else None
    if not match:
        raise StorageError(f"{program} reports no version that can be read")
    version = (int(match[1]), int(match[2]), int(match[3] or 0))
    if version < minimum or (program == "borg" and version >= (2,)):
        wanted = ".".join(map(str, minimum))
        why = (
            "older ones have CVE-2023-36811, and borg 2 is another program"
            if program == "borg"
            else "older ones have GHSA-45pq-889g-fcgh; a folder or ssh:// works with any"
        )
        raise StorageError(f"{program} {words[1]} is not used: {wanted} or newer is needed, {why}")


def _require_folder(repository: Repository, folder: Path) -> None:
    """Refuse a folder that is missing, and a repository that is a link to elsewhere."""
    path = folder / repository.name
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise UsageError(f"{folder} is not a folder")
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise UsageError(f"{path} is not a folder, or is a link to one")
    except FileNotFoundError as error:
        if error.filename == str(folder):
            raise UsageError(f"{folder} does not exist: make it, or mount what it is on") from None
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from None
