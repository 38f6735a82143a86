# SPDX-License-Identifier: GPL-3.0-or-later
"""Events: what qubesd tells to those who listen with admin.Events.

Names of events: qubes-core-admin qubes/vm/qubesvm.py (QubesVM), qubes/__init__.py (property).
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

# A listener that doesn't read loses events rather than filling our memory.
BACKLOG = 1000


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        subject: the qube's name, or "" for the whole system.
        name: such as domain-start.
        details: further fields, in order.
    """

    subject: str
    name: str
    details: tuple[tuple[str, str], ...] = ()


class Events:
    """Hands each event to all listeners."""

    def __init__(self) -> None:
        """Start without listeners."""
        self._lock = threading.Lock()
        self._listeners: list[queue.Queue[Event]] = []

    def fire(self, subject: str, name: str, /, **details: object) -> None:
        """Tell all listeners; a full one misses this event.

        Args:
            subject: the qube's name, or "" for the whole system.
            name: the event's name.
            details: further fields; None is sent as upstream sends it, as "None".
        """
        event = Event(subject, name, tuple((key, str(value)) for key, value in details.items()))
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            with contextlib.suppress(queue.Full):
                listener.put_nowait(event)

    @contextlib.contextmanager
    def listen(self) -> Iterator[queue.Queue[Event]]:
        """Give a queue that receives every event from now on."""
        listener: queue.Queue[Event] = queue.Queue(BACKLOG)
        with self._lock:
            self._listeners.append(listener)
        try:
            yield listener
        finally:
            with self._lock:
                self._listeners.remove(listener)
