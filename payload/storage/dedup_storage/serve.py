# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the engine's own server for one repository, on stdin and stdout."""

import contextlib
import os
import pwd
import re
import select
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dedup_storage import borg_locks, borg_session, durable, kept
from dedup_storage.borg_filter import Filter
from dedup_storage.config import Repository, Ssh
from dedup_storage.errors import RefusedError, StorageError, UsageError

# CVE-2023-36811: archives can be faked
BORG_MIN = (1, 2, 5)
# GHSA-45pq-889g-fcgh: `serve restic` takes `../` in paths, and most remotes follow it; the local
# disk isn't affected, since rclone writes such names differently there
RCLONE_MIN = (1, 75, 0)
CREATE_SECONDS = 600  # making a repository takes a second; see borg_filter._CREATING
_STDIN, _STDOUT = 0, 1
_BUFFER = 1 << 20
_TICK = 1.0  # seconds
_STOP_SECONDS = 30


def environment() -> dict[str, str]:
    """The environment for engines: nothing of the caller's but where things are."""
    home = os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    return {
        "HOME": home,
        "PATH": os.environ.get("PATH") or os.defpath,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "BORG_HOST_ID": borg_locks.host_id(),
    }


def command(repository: Repository, *, append_only: bool) -> list[str]:
    """Give the engine's command line.

    Raises:
        StorageError: when its program is missing, or too old to be safe.
        UsageError: when the place isn't usable.
    """
    ssh = repository.ssh
    if ssh:
        return _ssh_command(repository, ssh, append_only=append_only)
    require_version(repository)
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


def _ssh_command(repository: Repository, ssh: Ssh, *, append_only: bool) -> list[str]:
    """Run the engine's server on another machine, whose shell takes one string."""
    target = f"{ssh.folder.rstrip('/')}/{repository.name}"
    server = _server(repository, target, append_only=append_only)
    flushed = f"{kept.FLUSH} . && " if repository.engine == "restic" else ""
    remote = f"cd {shlex.quote(ssh.folder)} && {flushed}exec {shlex.join(server)}"
    argv = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    argv += ["-o", "ForwardAgent=no", "-o", "ForwardX11=no", "-o", "ServerAliveInterval=60"]
    if repository.ssh_config:
        argv += ["-F", repository.ssh_config]
    if ssh.port:
        argv += ["-p", ssh.port]
    return [*argv, "--", ssh.target, remote]


def require_version(repository: Repository) -> None:
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
        raise StorageError(f"{program} doesn't tell its version")
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
            raise UsageError(f"{folder} is no folder")
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise UsageError(f"{path} is no folder, or a link to one")
    except FileNotFoundError as error:
        if error.filename == str(folder):
            raise UsageError(f"{folder} does not exist: make it, or mount what it is on") from None
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from None


def serve(repository: Repository) -> int:
    """Give append-only access. Returns only for borg, whose requests are watched.

    Returns:
        The server's exit code.

    Raises:
        StorageError: when it can't be.
        RefusedError: when the client asked for what it must not have.
    """
    argv = command(repository, append_only=True)
    if repository.engine == "restic":
        if repository.folder is None:
            _execute(argv)
        with durable.session(repository, repository.folder) as lock:
            os.set_inheritable(lock, True)
            _execute(argv)
    with contextlib.ExitStack() as stack:
        may_create = True
        if repository.folder:
            stack.enter_context(borg_session.session(repository, repository.folder))
            path = repository.folder / repository.name
            may_create = not path.exists() or not any(path.iterdir())
        watched = Filter(repository.name, may_create=may_create)
        return relay(argv, repository.folder, watched)


def _execute(argv: list[str]) -> NoReturn:
    try:
        os.execvpe(argv[0], argv, environment())
    except OSError as error:
        raise StorageError(f"{argv[0]} can't be started: {error.strerror}") from None


def start(argv: list[str], cwd: Path | None, stdin: int) -> subprocess.Popen[bytes]:
    """Start a server that is ended when we are, whatever ends us.

    Raises:
        StorageError: when it can't be started.
    """
    death = ["setpriv", "--pdeathsig", "TERM", "--"]
    try:
        return subprocess.Popen([*death, *argv], stdin=stdin, cwd=cwd, env=environment())
    except OSError as error:
        raise StorageError(f"{argv[0]} can't be started: {error.strerror}") from None


def relay(argv: list[str], cwd: Path | None, watched: Filter) -> int:
    """Run borg's server behind a filter; what it answers goes to stdout directly."""
    server = start(argv, cwd, subprocess.PIPE)
    pipe = server.stdin
    assert pipe is not None  # noqa: S101 (for mypy: it is a pipe)
    try:
        deadline = time.monotonic() + CREATE_SECONDS
        while server.poll() is None:
            if watched.is_creating and time.monotonic() > deadline:
                raise RefusedError("making the repository took too long")
            if not select.select([_STDIN], [], [], _TICK)[0]:
                continue
            data = os.read(_STDIN, _BUFFER)
            if not data:
                break
            view = memoryview(watched.feed(data))
            while view:
                view = view[os.write(pipe.fileno(), view) :]
        pipe.close()
        return server.wait()
    except BrokenPipeError:
        return server.wait()
    finally:
        stop(server)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server that still runs."""
    if server.stdin:
        with contextlib.suppress(BrokenPipeError):
            server.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_TICK)  # borg then closes the repository in order
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def supervise(argv: list[str], cwd: Path | None, is_open: Callable[[], bool]) -> int:
    """Run a server as long as it may run.

    Raises:
        RefusedError: when it may not any more.
    """
    if os.geteuid() == 0 and cwd and cwd.stat().st_uid == 0:
        # root may write to any file, also to one that held.py protects
        argv = ["setpriv", "--bounding-set=-dac_override", "--", *argv]
    server = start(argv, cwd, _STDIN)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return server.wait(_TICK)
            if not is_open():
                raise RefusedError("maintenance was closed")
    finally:
        stop(server)
