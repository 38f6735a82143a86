# SPDX-License-Identifier: GPL-3.0-or-later
"""Qubes as podman containers with systemd: start, stop, and enter them.

A template's root image is loop-mounted and is its container's root; an app qube's container has a
throw-away overlay on a read-only mount of its template's root image, so its root is fresh at each
start, and only /rw (with /home and /usr/local on it) persists: upstream
qubes-core-admin qubes/vm/appvm.py and qubes-core-agent-linux init/mount-dirs.sh.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from . import disks, ext4
from .host import process_start, run
from .paths import DOM0, PROJECT, LabError, LabPaths

__all__ = ["Containers", "LabError", "QubeSpec"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_SECONDS = 60
STOP_SECONDS = 20

# For machines without CAP_SYS_RESOURCE, where crun can't raise limits.
LOWERED_LIMITS = """\
[containers]
default_ulimits=["nofile=1024:1024","nproc=1024:1024"]
[engine]
runtime="runc"
"""


@dataclass(frozen=True)
class QubeSpec:
    """What is needed to start a qube.

    Attributes:
        name: the qube's name.
        klass: Qubes' class name, such as AppVM.
        root: the root image (its own, or its template's).
        root_persistent: the qube's own root: changes to it stay.
        private: the private image.
    """

    name: str
    klass: str
    root: Path
    root_persistent: bool
    private: Path


class Containers:
    """The containers of one lab."""

    def __init__(self, state: Path) -> None:
        """Take the lab's state folder."""
        self.paths = LabPaths(state)

    def start(self, qube: QubeSpec) -> None:
        """Start a qube and wait until its systemd is up.

        Raises:
            LabError: it runs already, an image is missing, or it didn't come up.
        """
        with self._lock(qube.name):
            if self.is_running(qube.name):
                raise LabError(f"{qube.name} is running already")
            self._clean(qube.name)
            self._refuse_shared_root(qube)
            try:
                root = self._mount(qube.root, f"{qube.name}.root", not qube.root_persistent)
                private = self.mounted(qube.private, f"{qube.name}.private")
                fill_private(private, root)
                self._launch(
                    qube,
                    [
                        f"--volume={private}:/rw",
                        f"--volume={private}/home:/home",
                        f"--volume={private}/usrlocal:/usr/local",
                        *self._update_options(qube),
                    ],
                    root,
                )
            except LabError:
                self._clean(qube.name)
                raise

    def start_dom0(self, boots: bool = True) -> None:
        """Start dom0 on its own root image; the checkout is at /srv/qubes-dedup-backup, read-only.

        Args:
            boots: start its systemd; else it has no services, only what is run in it.

        Raises:
            LabError: as for `start`.
        """
        image = self.paths.dom0_image
        spec = QubeSpec(DOM0, "AdminVM", image, True, image)
        with self._lock(DOM0):
            self._clean(DOM0)
            root = self._mount(image, f"{DOM0}.root", False)
            self._launch(
                spec,
                [
                    f"--volume={self.paths.qubes}:/var/lib/qubes",
                    f"--volume={PROJECT}:/srv/qubes-dedup-backup:ro,bind",
                ],
                root,
                boots,
            )

    def stop(self, name: str) -> None:
        """Shut a qube down and unmount its images; nothing happens when it isn't running."""
        with self._lock(name):
            self._clean(name)

    def reboot(self, name: str) -> None:
        """Shut a running qube down and start it again on the same images; wait for its systemd.

        Raises:
            LabError: it didn't come up.
        """
        with self._lock(name):
            record = self._record(name)
            container = self.paths.container(name)
            self._stop(name, container)
            self.podman("start", container)
            self._started(name, record, boots=True)

    def is_running(self, name: str) -> bool:
        """Tell whether the qube's first process is alive."""
        record = self._record(name)
        return bool(record) and process_start(int(record["pid"])) == record["start"]

    def pid(self, name: str) -> int:
        """Return the host's process id of the qube's first process.

        Raises:
            LabError: the qube isn't running.
        """
        if not self.is_running(name):
            raise LabError(f"{name} is not running: its container is not there or died")
        return int(self._record(name)["pid"])

    def running(self) -> list[str]:
        """Return the names of all running qubes, dom0 among them."""
        names = (entry.stem for entry in self.paths.records.glob("*.json"))
        return sorted(name for name in names if self.is_running(name))

    def enter(self, name: str, user: str | None) -> list[str]:
        """Return the argv prefix that runs a command in a qube: clean environment, home folder.

        Args:
            name: the qube, or dom0.
            user: the user to become; None is root without HOME, as a systemd service has it.

        Raises:
            LabError: the qube isn't running.
        """
        home = "/" if user is None else "/root" if user == "root" else f"/home/{user}"
        argv = ["nsenter", "-t", str(self.pid(name)), "-a", f"--wdns={home}", "--"]
        argv += ["/usr/bin/env", "-i", f"PATH={PATH}", "LANG=C.UTF-8"]
        if user is None:
            return argv
        argv += [f"HOME={home}", f"USER={user}", f"LOGNAME={user}", "SHELL=/bin/bash"]
        become = ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return [*argv, *become]

    def podman(self, *args: str) -> str:
        """Run podman with this lab's settings and return its stdout.

        Raises:
            LabError: podman is missing or fails.
        """
        env = dict(os.environ)
        if self.paths.containers_conf.exists():
            env["CONTAINERS_CONF"] = str(self.paths.containers_conf)
        return run(["podman", *args], env)

    def probe(self, root: Path) -> None:
        """Find out whether podman's defaults work here; else write settings that do.

        Args:
            root: a mounted root file system to try it on.

        Raises:
            LabError: neither works; with podman's message.
        """
        trial = ("run", "--rm", "--network=none", "--rootfs", f"{root}:O", "/bin/true")
        self.paths.containers_conf.unlink(missing_ok=True)
        try:
            self.podman(*trial)
        except LabError:
            self.paths.containers_conf.write_text(LOWERED_LIMITS)
            self.podman(*trial)

    def mounted(self, image: Path, name: str) -> Path:
        """Mount a halted qube's image read-write and return where; `unmount` ends it.

        A blank image is formatted first; one that was enlarged gets its file system enlarged.
        """
        where = self._mount(image, name, False, format_blank=True)
        if ext4.file_system_bytes(image) < image.stat().st_size:
            # In Qubes the qube does this too: qubes-core-agent-linux init/setup-rwdev.sh.
            run(["resize2fs", run(["findmnt", "-nro", "SOURCE", str(where)]).strip()])
        return where

    def unmount(self, name: str) -> None:
        """Unmount what was mounted under `name`, and wait until its loop device is free.

        The kernel detaches it a little later; a mount in between would get it as it was, read-only
        perhaps.
        """
        where = self.paths.mounts / name
        if not os.path.ismount(where):
            return
        device = run(["findmnt", "-nro", "SOURCE", str(where)]).strip()
        run(["umount", str(where)])
        attached = Path("/sys/block", Path(device).name, "loop/backing_file")
        deadline = time.monotonic() + STOP_SECONDS
        while attached.exists() and f"{device} " not in Path("/proc/mounts").read_text():
            if time.monotonic() > deadline:
                raise LabError(f"{device} stays attached after {where} was unmounted")
            time.sleep(0.01)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        self.paths.records.mkdir(parents=True, exist_ok=True)
        with (self.paths.records / f"{name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _update_options(self, qube: QubeSpec) -> list[str]:
        """Only qubes with a root of their own are updated; here from a local copy of Debian.

        It stands for the updates proxy: qubes-core-agent-linux network/updates-proxy.
        """
        return [f"--volume={self.paths.debian}:/srv/debian:ro"] if qube.root_persistent else []

    def _record(self, name: str) -> dict[str, str | int]:
        try:
            record = json.loads((self.paths.records / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _refuse_shared_root(self, qube: QubeSpec) -> None:
        """The lab has no snapshots: a root image is changed by one qube, or read by many."""
        for name in self.running():
            record = self._record(name)
            if record["root"] != str(qube.root):
                continue
            if qube.root_persistent or record["persistent"]:
                raise LabError(
                    f"can't start {qube.name}: {name} runs on the same root image; "
                    f"shut {name} down first (Qubes would use a snapshot, the lab has none)"
                )

    def _mount(self, image: Path, name: str, readonly: bool, format_blank: bool = False) -> Path:
        if not image.is_file():
            raise LabError(f"no image at {image}: was the qube removed by hand?")
        if format_blank and ext4.is_blank(image):
            # In Qubes the qube does it: qubes-core-agent-linux init/setup-rwdev.sh.
            run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)])
        where = self.paths.mounts / name
        where.mkdir(parents=True, exist_ok=True)
        options = "loop,ro,noload" if readonly else "loop"
        run(["mount", "-t", "ext4", "-o", options, str(image), str(where)])
        return where

    def _launch(self, qube: QubeSpec, options: list[str], root: Path, boots: bool = True) -> None:
        run_dir = self.paths.run_dir(qube.name)
        run_dir.mkdir(parents=True, exist_ok=True)
        name = self.paths.container(qube.name)
        self.podman(
            *("run", "--detach", f"--name={name}", f"--hostname={qube.name}"),
            *("--network=none", f"--systemd={'always' if boots else 'false'}", "--log-driver=none"),
            *(("--device=/dev/fuse",) if Path("/dev/fuse").exists() else ()),
            *(f"--volume={run_dir}:/run/qubes-lab", *options),
            *("--rootfs", f"{root}{'' if qube.root_persistent else ':O'}"),
            *(("/sbin/init",) if boots else ("/usr/bin/sleep", "infinity")),
        )
        record: dict[str, str | int] = {
            "root": str(qube.root),
            "persistent": qube.root_persistent,
            "mount": str(root),
        }
        self._started(qube.name, record, boots)

    def _started(self, name: str, record: dict[str, str | int], boots: bool) -> None:
        """Note which process the qube's first one is now, and wait until its systemd is up."""
        container = self.paths.container(name)
        pid = int(self.podman("inspect", "--format={{.State.Pid}}", container))
        start = process_start(pid)
        if start is None:
            raise LabError(f"the container of {name} died at once: `podman logs {container}`")
        text = json.dumps({**record, "pid": pid, "start": start})
        write_atomic(self.paths.records / f"{name}.json", text)
        if boots:
            self._wait_for_boot(name)

    def _wait_for_boot(self, name: str) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        argv = [*self.enter(name, None), "systemctl", "is-system-running", "--wait"]
        state = "unknown"
        while time.monotonic() < deadline:
            done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
            state = done.stdout.strip()
            if state in ("running", "degraded"):
                return
            if not self.is_running(name):
                raise LabError(f"the container of {name} died while it started")
            time.sleep(0.05)
        raise LabError(f"{name} didn't start within {BOOT_SECONDS} s: systemd says {state!r}")

    def _clean(self, name: str) -> None:
        """Stop and remove the container, if any, and unmount what it used."""
        container = self.paths.container(name)
        exists = ["podman", "container", "exists", container]
        if subprocess.run(exists, check=False).returncode == 0:
            self._stop(name, container)
            self.podman("rm", "--force", container)
        (self.paths.records / f"{name}.json").unlink(missing_ok=True)
        for part in ("root", "private"):
            self.unmount(f"{name}.{part}")
        disks.release(self.paths.disks(name))

    def _stop(self, name: str, container: str) -> None:
        with ThreadPoolExecutor(1) as pool:
            stop = pool.submit(self.podman, "stop", f"--time={STOP_SECONDS}", container)
            while not wait([stop], timeout=0.1).done:
                _end_stopped_commands(self._record(name).get("pid"))
        stop.result()


def _end_stopped_commands(pid: str | int | None) -> None:
    """End the nsenter of each command in a qube that has stopped itself.

    The qube's systemd stops all processes before it ends them; nsenter then stops itself too, and
    never takes notice of its command's end, for which the container would wait for ever.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_bytes().rpartition(b") ")[2][:1]  # proc(5)
            if argv[:3] == [b"nsenter", b"-t", str(pid).encode()] and state == b"T":
                os.kill(int(entry.name), signal.SIGKILL)


def fill_private(private: Path, root: Path) -> None:
    """Give a new private volume its home and /usr/local, from the root.

    Source: qubes-core-agent-linux init/setup-rw.sh and init/functions (initialize_home).
    """
    for target, source in (("home", "home"), ("usrlocal", "usr/local")):
        if not (private / target).exists():
            with tempfile.TemporaryDirectory(dir=private) as scratch:
                run(["cp", "-a", str(root / source), f"{scratch}/new"])
                (Path(scratch) / "new").rename(private / target)
    (private / "config").mkdir(exist_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Replace a file's content in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".new")
    with temporary.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy an image, holes kept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(target.parent).free < source.stat().st_blocks * 512 * 2:
        raise LabError(f"not enough free disk for a copy of {source.name} in {target.parent}")
    run(["cp", "--reflink=auto", "--sparse=always", str(source), str(target)])
