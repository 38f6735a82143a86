# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's daemon: qubesd and the qrexec broker in one process.

Run as `python3 -m qubeslab.daemon STATE`. Until SIGTERM it serves qubesd.sock, qubesd.internal.sock
and qrexec.sock in STATE/run/dom0, and STATE/run/QUBE/qrexec.sock. Qubes keep running when it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from .containers import Containers, QubeSpec
from .domains import Store
from .domains_power import Machines, Power
from .domains_volumes import Pool
from .paths import DOM0, LabError, LabPaths
from .qrexec import Broker
from .qrexec_run import Paths
from .qubesd import Api
from .qubesd_backup import Backups
from .qubesd_events import Events
from .qubesd_lifecycle import Lifecycle
from .qubesd_methods import Basics, Lab
from .qubesd_volumes import VolumeMethods

# The group `qubes` in dom0 (lab/images/base.sh); its members may use the sockets there.
QUBES_GID = 98
BACKLOG = 64

log = logging.getLogger("daemon")

Serve = Callable[[socket.socket], None]


class HostMachines(Containers):
    """Containers, and where their files are seen from the host."""

    def root(self, name: str) -> Path:
        """Return the root folder of a running qube.

        Raises:
            LabError: it isn't running.
        """
        return Path("/proc", str(self.pid(name)), "root")


class Sockets:
    """Listening unix sockets, each with a thread that accepts, and one thread per connection."""

    def __init__(self, paths: LabPaths) -> None:
        """Take the lab's paths."""
        self.paths = paths
        self._open: dict[Path, socket.socket] = {}

    def listen(self, name: str, file: str, serve: Serve) -> None:
        """Serve STATE/run/NAME/FILE; nothing happens when it is served already."""
        folder = self.paths.run_dir(name)
        path = folder / file
        if path in self._open:
            return
        folder.mkdir(parents=True, exist_ok=True)
        # Under its own name only when it can be used: who waits for the file connects at once.
        scratch = path.with_name(f"{file}.new")
        scratch.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A socket's path has at most 107 bytes; a checkout may lie deeper than that.
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            listener.bind(f"/proc/self/fd/{handle}/{scratch.name}")
        finally:
            os.close(handle)
        scratch.chmod(0o660 if name == DOM0 else 0o666)
        if name == DOM0:
            with contextlib.suppress(PermissionError):
                os.chown(scratch, -1, QUBES_GID)
        listener.listen(BACKLOG)
        scratch.replace(path)
        self._open[path] = listener
        threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()

    def close(self, name: str, file: str) -> None:
        """Stop serving STATE/run/NAME/FILE."""
        path = self.paths.run_dir(name) / file
        listener = self._open.pop(path, None)
        if listener is not None:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def close_all(self) -> None:
        """Stop serving."""
        for path in list(self._open):
            self.close(path.parent.name, path.name)

    @staticmethod
    def _accept(listener: socket.socket, serve: Serve) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


class Served:
    """Machines whose qrexec socket is open while they run."""

    def __init__(self, machines: Machines, sockets: Sockets) -> None:
        """Take the machines; `broker` must be set before a qube starts."""
        self._machines, self._sockets = machines, sockets
        self.broker: Broker | None = None

    def start(self, qube: QubeSpec) -> None:
        """Open the socket and start."""
        self.open(qube.name)
        self._machines.start(qube)

    def stop(self, name: str) -> None:
        """Stop, and close the socket."""
        self._machines.stop(name)
        self._sockets.close(name, "qrexec.sock")

    def is_running(self, name: str) -> bool:
        """Ask the machines."""
        return self._machines.is_running(name)

    def enter(self, name: str, user: str | None) -> list[str]:
        """Ask the machines."""
        return self._machines.enter(name, user)

    def root(self, name: str) -> Path:
        """Ask the machines."""
        return self._machines.root(name)

    def open(self, name: str) -> None:
        """Open the socket of a qube, or of dom0."""
        broker = self.broker
        if broker is not None:
            self._sockets.listen(name, "qrexec.sock", lambda client: broker.serve(client, name))


class Daemon:
    """Everything wired together."""

    def __init__(self, state: Path, machines: Machines, paths: Paths) -> None:
        """Read the state and take over what runs.

        Raises:
            LabError: the state can't be used.
        """
        self.sockets = Sockets(LabPaths(state))
        self.machines = Served(machines, self.sockets)
        store, events = Store(state), Events()
        pool = Pool(state, store, paths.pool)
        self.power = Power(store, pool, self.machines, events)
        lab = Lab(store, pool, self.power, events)
        volumes = VolumeMethods(lab)
        self.machines.broker = Broker(self.power, volumes, paths)
        methods = Basics(lab).methods() | Lifecycle(lab).methods() | volumes.methods()
        methods |= Backups(lab, paths.backup_program).methods()
        self.api = Api(store, events, methods, streams=True)
        self.internal = Api(store, events, volumes.internal_methods(), streams=False)
        # A signal's handler may put into it while the same thread waits; an Event could lock up.
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run(self) -> None:
        """Serve until `end` is called."""
        for name in self.power.store.names():
            if name == DOM0 or self.machines.is_running(name):
                self.machines.open(name)
        self.sockets.listen(DOM0, "qubesd.internal.sock", self.internal.serve)
        # The last one: who waits for the daemon waits for this.
        self.sockets.listen(DOM0, "qubesd.sock", self.api.serve)
        watcher = threading.Thread(target=self.power.watch, daemon=True)
        watcher.start()
        log.info("serving %s", self.sockets.paths.state)
        self._ended.get()
        self.sockets.close_all()
        self.power.end()
        watcher.join()
        log.info("ended")

    def end(self) -> None:
        """Let `run` return."""
        self._ended.put(None)


def serve(state: Path, machines: Machines, paths: Paths) -> None:
    """Run a daemon in this process until SIGTERM or SIGINT.

    Raises:
        LabError: the state can't be used, or another daemon serves it.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s: %(message)s"
    )
    with (state / "daemon.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"another daemon serves {state} already") from error
        daemon = Daemon(state, machines, paths)

        def end(_signal: int, _frame: FrameType | None) -> None:
            daemon.end()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        daemon.run()


def main(argv: list[str]) -> int:
    """Run the daemon of the lab whose state folder is the only argument."""
    if len(argv) != 2:
        print(f"usage: {argv[0]} STATE", file=sys.stderr)
        return 2
    state = Path(argv[1]).resolve()
    try:
        serve(state, HostMachines(state), Paths())
    except LabError as error:
        print(f"daemon: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
