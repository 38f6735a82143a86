# SPDX-License-Identifier: GPL-3.0-or-later
"""Make, start and stop a whole lab: dom0, the base template, and the daemon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from . import images
from .containers import Containers, copy_sparse, fill_private
from .host import process_start, run
from .paths import BASE_TEMPLATE, DOM0, LAB_DIR, LabError, LabPaths

PRIVATE_BYTES = 2 * 2**30  # qubes-core-admin qubes/config.py defaults['private_img_size']
DAEMON_SECONDS = 20

# Where the stand-ins lie in dom0 and in a template: source folder in lab/ -> folder in the root.
DOM0_FILES = {
    "dom0/bin": "usr/bin",
    "dom0/lib": "usr/libexec/qubes",
    "dom0/qubesadmin": "usr/lib/python3/dist-packages/qubesadmin",
    "dom0/backup": "usr/lib/python3/dist-packages/qubes",
    "qube/lib": "usr/lib/qubes",
    "dom0/rpc": "etc/qubes-rpc",
    "dom0/policy": "etc/qubes/policy.d",
    "ansible": "usr/share/ansible/collections",
    "dom0/salt": "srv/salt",
    "dom0/salt-config": "etc/salt",
}
QUBE_FILES = {
    "dom0/lib": "usr/lib/qubes",
    "qube/bin": "usr/bin",
    "qube/lib": "usr/lib/qubes",
    "qube/rpc": "etc/qubes-rpc",
    "qube/rpc-config": "etc/qubes/rpc-config",
    "qube/profile": "etc/profile.d",
    "qube/tmpfiles": "usr/lib/tmpfiles.d",
    "qube/init": "usr/lib/qubes/init",
    "qube/systemd": "usr/lib/systemd/system",
}


def create(
    paths: LabPaths, containers: Containers, dom0: images.Image, with_template: bool
) -> None:
    """Lay down a new lab's images and state; dom0's image last, as it says that the lab exists."""
    if paths.state.exists():
        shutil.rmtree(paths.state)
    paths.qubes.mkdir(parents=True)
    if with_template:
        folder = paths.qubes / "vm-templates" / BASE_TEMPLATE
        copy_sparse(images.TEMPLATE_IMAGE.path, folder / "root.img")
        blank_image(folder / "private.img")
        run(["cp", "-al", str(images.TEMPLATE_IMAGE.repository), str(paths.debian)])
        _install(containers, folder / "root.img", QUBE_FILES, probe=True)
        from .domains import create_initial  # noqa: PLC0415 -- dom0 alone needs no domains

        create_initial(paths.state, BASE_TEMPLATE)
    scratch = paths.dom0_image.with_suffix(".new")
    copy_sparse(dom0.path, scratch)
    _install(containers, scratch, DOM0_FILES, probe=not with_template)
    scratch.rename(paths.dom0_image)


def start(paths: LabPaths, containers: Containers, dom0: images.Image, with_daemon: bool) -> None:
    """Start the daemon and dom0.

    Raises:
        LabError: one of them doesn't come up.
    """
    if with_daemon:
        _start_daemon(paths)
    containers.start_dom0(dom0.boots)


def stop(paths: LabPaths, containers: Containers) -> None:
    """Stop every qube, dom0 and the daemon; whatever isn't running is fine."""
    names = [record.stem for record in paths.records.glob("*.json")]
    for name in sorted(names, key=lambda name: name == DOM0):
        containers.stop(name)
    _stop_daemon(paths)
    for mount in sorted(paths.mounts.glob("*")):
        containers.unmount(mount.name)


def add_qube(containers: Containers, name: str, template: str, source: Path, size: str) -> None:
    """Create an app qube and copy a folder's files into its home, as user `user`.

    Args:
        containers: the lab's containers; dom0 must run.
        name: the new qube's name.
        template: its template.
        source: the folder.
        size: of its private volume, as truncate(1) takes it; Qubes' default when empty.

    Raises:
        LabError: the qube can't be created, or the files can't be copied.
    """
    enter = containers.enter(DOM0, "user")
    run([*enter, "qvm-create", "--class=AppVM", "--label=blue", f"--template={template}", name])
    if size:
        blank = f"/tmp/{name}.blank"  # noqa: S108 -- in the lab's dom0
        run([*enter, "truncate", f"--size={size}", blank])
        run([*enter, "qvm-volume", "import", f"{name}:private", blank])
        run([*enter, "rm", blank])
    image = containers.paths.qubes / "appvms" / name / "private.img"
    template_root = containers.paths.qubes / "vm-templates" / template / "root.img"
    try:
        private = containers.mounted(image, f"{name}.private")
        fill_private(private, containers.mounted(template_root, f"{name}.root"))
        target = private / "home" / "user" / source.name
        run(["cp", "-a", str(source), str(target)])
        run(["chown", "-R", "1000:1000", str(target)])
    finally:
        containers.unmount(f"{name}.private")
        containers.unmount(f"{name}.root")


def blank_image(path: Path) -> None:
    """Make an empty, sparse private image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        handle.truncate(PRIVATE_BYTES)


def daemon_is_running(paths: LabPaths) -> bool:
    """Tell whether the daemon of this lab is alive."""
    return _daemon_pid(paths) is not None


def _daemon_pid(paths: LabPaths) -> int | None:
    try:
        pid, started = (int(word) for word in paths.daemon_pid.read_text().split())
    except (OSError, ValueError):
        return None
    return pid if process_start(pid) == started else None


def _start_daemon(paths: LabPaths) -> None:
    if daemon_is_running(paths):
        return
    run_dir = paths.run_dir(DOM0)
    run_dir.mkdir(parents=True, exist_ok=True)
    socket = run_dir / "qubesd.sock"
    socket.unlink(missing_ok=True)
    env = dict(os.environ, PYTHONPATH=str(LAB_DIR), PYTHONDONTWRITEBYTECODE="1")
    with paths.daemon_log.open("ab") as log:
        process = subprocess.Popen(
            ["/usr/bin/python3", "-m", "qubeslab.daemon", str(paths.state)],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + DAEMON_SECONDS
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"the lab's daemon didn't start: see {paths.daemon_log}")
        time.sleep(0.02)
    paths.daemon_pid.write_text(f"{process.pid} {process_start(process.pid)}\n")


def _stop_daemon(paths: LabPaths) -> None:
    pid = _daemon_pid(paths)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DAEMON_SECONDS
        while _daemon_pid(paths) is not None:
            if time.monotonic() > deadline:
                raise LabError(f"the lab's daemon (process {pid}) doesn't end: kill it by hand")
            time.sleep(0.02)
    paths.daemon_pid.unlink(missing_ok=True)


def _install(containers: Containers, image: Path, files: dict[str, str], probe: bool) -> None:
    """Copy the lab's stand-ins into a root image."""
    name = f"{image.parent.name}.install"
    root = containers.mounted(image, name)
    try:
        for source, target in files.items():
            if (LAB_DIR / source).is_dir():
                _copy_tree(LAB_DIR / source, root / target)
        if probe:
            containers.probe(root)
    finally:
        containers.unmount(name)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy files, as root's and readable by all, whatever the checkout's umask was."""
    for path in sorted(source.rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
