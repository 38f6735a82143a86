# SPDX-License-Identifier: GPL-3.0-or-later
"""Start and stop qubes, and notice those that ended by themselves.

What is true is asked from Containers each time; nothing about power is stored.
Source: qubes-core-admin qubes/vm/qubesvm.py (start, shutdown, kill, get_power_state).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from .containers import QubeSpec
from .domains import Qube, Store
from .domains_properties import Properties
from .domains_volumes import Pool, grow_filesystem
from .paths import DOM0, LabError
from .qubesd_events import Events
from .qubesd_exc import (
    QubesException,
    QubesVMError,
    QubesVMInUseError,
    QubesVMNotHaltedError,
    QubesVMNotStartedError,
)

WATCH_SECONDS = 0.5

log = logging.getLogger("power")


class Machines(Protocol):
    """What the daemon needs of Containers."""

    def start(self, qube: QubeSpec) -> None:
        """Start a qube."""

    def stop(self, name: str) -> None:
        """Shut a qube down."""

    def is_running(self, name: str) -> bool:
        """Tell whether a qube runs."""

    def enter(self, name: str, user: str | None) -> list[str]:
        """Return the argv prefix that runs a command in a qube."""

    def root(self, name: str) -> Path:
        """Return where this machine sees a running qube's files."""


class Power:
    """Starts and stops qubes."""

    def __init__(
        self,
        store: Store,
        pool: Pool,
        machines: Machines,
        events: Events,
    ) -> None:
        """Take the parts it works with; qubes that run already are taken over."""
        self.store, self.pool, self.machines, self.events = store, pool, machines, events
        self.properties = Properties(store)
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._passing: dict[str, str] = {}
        self._alive = {name for name in store.names() if machines.is_running(name)} - {DOM0}
        self._ended = threading.Event()

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Keep others from starting, stopping or removing the qube meanwhile."""
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            yield

    def state(self, name: str) -> str:
        """Return Halted, Transient (starting), Running or Halting."""
        if name == DOM0:
            return "Running"
        passing = self._passing.get(name)
        if passing:
            return passing
        return "Running" if self.machines.is_running(name) else "Halted"

    def is_halted(self, name: str) -> bool:
        """Tell whether the qube is entirely off."""
        return self.state(name) == "Halted"

    def need_halted(self, qube: Qube, message: str = "") -> None:
        """Raise QubesVMNotHaltedError unless the qube is off."""
        if not self.is_halted(qube.name):
            raise QubesVMNotHaltedError(message or f"Domain is not powered off: {qube.name!r}")

    def start(self, name: str) -> None:
        """Start a qube and wait until it can run services; nothing happens when it runs.

        Raises:
            QubesVMNotHaltedError: it is dom0.
            QubesException: it can't start, with the reason.
        """
        if name == DOM0:
            raise QubesVMNotHaltedError("Cannot start Dom0 fake domain!")
        with self.exclusive(name):
            qube = self.store[name]
            if not self.is_halted(name):
                return
            self._reap(name)
            self.events.fire(name, "domain-pre-start", start_guid=True, mem_required=None)
            try:
                self._launch(qube)
            except (LabError, OSError) as error:
                log.error("%s can't start: %s", name, error)
                self.events.fire(name, "domain-start-failed", reason=error)
                raise QubesException(f"Start failed: {error}") from error
            self.events.fire(name, "domain-start", start_guid=True)

    def shutdown(self, name: str, force: bool = False, wait: bool = False) -> None:
        """Shut a qube down, in the background unless `wait`.

        Raises:
            QubesVMNotStartedError: it is off.
            QubesVMInUseError: it gives other running qubes the network, and no `force`.
            QubesVMError: it is dom0.
        """
        if name == DOM0:
            raise QubesVMError("Cannot shutdown Dom0 fake domain!")
        qube = self.store[name]
        if self.is_halted(name):
            raise QubesVMNotStartedError(f"Domain is powered off: {name!r}")
        users = [] if force else self.clients(name)
        if users:
            raise QubesVMInUseError(f"There are other VMs connected to this VM: {', '.join(users)}")
        self.events.fire(name, "domain-pre-shutdown", force=force)
        worker = threading.Thread(target=self._stop, args=(qube.name,), daemon=True)
        self._passing.setdefault(name, "Halting")
        worker.start()
        if wait:
            worker.join()

    def kill(self, name: str) -> None:
        """End a qube; the lab has only one, orderly, way."""
        if name == DOM0:
            raise QubesVMError("Cannot kill Dom0 fake domain!")
        self.shutdown(name, force=True, wait=True)

    def clients(self, name: str) -> list[str]:
        """Return the running qubes whose netvm this one is."""
        return [
            other.name
            for other in map(self.store.__getitem__, self.store.names())
            if other.name != DOM0
            and self.properties.get(other, "netvm") == name
            and not self.is_halted(other.name)
        ]

    def watch(self) -> None:
        """Notice qubes that end without being told to, until `end` is called."""
        while not self._ended.wait(WATCH_SECONDS):
            for name in list(self._alive):
                if name in self._passing or self.machines.is_running(name):
                    continue
                with self.exclusive(name):
                    if name in self._alive and not self.machines.is_running(name):
                        self._reap(name)

    def end(self) -> None:
        """Let `watch` return."""
        self._ended.set()

    def _launch(self, qube: Qube) -> None:
        reason = qube.features.get("prohibit-start")
        if reason:
            raise LabError(f"Qube start is prohibited. Rationale: {reason}")
        private = self.pool.image(qube, "private")
        own_root = qube.volumes["root"].save_on_stop
        self._passing[qube.name] = "Transient"
        try:
            for image in (private, self.pool.root_image(qube)) if own_root else (private,):
                grow_filesystem(image)
            # Copying the image of a qube that no backup reads (such as the one that keeps the
            # backups) would only cost time and disk.
            if self.properties.get(qube, "include_in_backups"):
                self.pool.freeze(qube)
            self.machines.start(
                QubeSpec(qube.name, qube.klass, self.pool.root_image(qube), own_root, private)
            )
            self._alive.add(qube.name)
            log.info("%s started", qube.name)
        except BaseException:
            self.pool.thaw(qube)
            raise
        finally:
            self._passing.pop(qube.name, None)

    def _stop(self, name: str) -> None:
        with self.exclusive(name):
            try:
                self.machines.stop(name)
            except LabError as error:
                log.error("%s doesn't stop: %s", name, error)
                return
            finally:
                self._passing.pop(name, None)
            if name in self._alive:
                self._alive.discard(name)
                self.pool.thaw(self.store[name])
                log.info("%s stopped", name)
                self.events.fire(name, "domain-stopped")
                self.events.fire(name, "domain-shutdown")

    def _reap(self, name: str) -> None:
        """Clean up after a qube that is gone though nobody stopped it."""
        if name not in self._alive:
            return
        log.warning("%s ended by itself: it was shut down inside, or its container died", name)
        self._stop_quietly(name)
        self._alive.discard(name)
        self.pool.thaw(self.store[name])
        self.events.fire(name, "domain-stopped")
        self.events.fire(name, "domain-shutdown")

    def _stop_quietly(self, name: str) -> None:
        try:
            self.machines.stop(name)
        except LabError as error:
            log.error("cleaning up after %s failed: %s", name, error)
