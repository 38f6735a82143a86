# SPDX-License-Identifier: GPL-3.0-or-later
"""A watch that reports when nothing has moved for a while: silence looks like a crash.

A thread checks when something moved last, so that it costs the bytes themselves nothing. It reports
less and less often, as its reports can end in a log of dom0's.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from dedup_store.system import notify

_FIRST, _MOST = 10, 600  # seconds between two lines
_PAUSE = 1  # seconds; a wait that begins sooner than this continues the one before


class _Watch:
    """The watch on one process's waits."""

    def __init__(self) -> None:
        self._what: Callable[[], str] | None = None
        self._since = self._left = 0.0
        self._has_thread = False

    @contextlib.contextmanager
    def waiting(self, what: Callable[[], str]) -> Iterator[None]:
        """Wait for something; report when nothing moves.

        Args:
            what: names it; called by another thread.
        """
        now = time.monotonic()
        if now - self._left > _PAUSE:
            self._since = now
        if not self._has_thread:
            self._has_thread = True
            threading.Thread(target=self._notify_of_stalls, daemon=True).start()
        self._what = what
        try:
            yield
        finally:
            self._what = None
            self._left = time.monotonic()

    def moved(self) -> None:
        """Record that something moved."""
        self._left = 0.0

    def _notify_of_stalls(self) -> None:
        gap = _FIRST
        last = 0.0
        while True:
            time.sleep(_PAUSE)
            now, what = time.monotonic(), self._what
            silent = now - self._since
            if what and silent >= _FIRST and now - last >= gap:
                notify.say(f"still waiting for {what()}: nothing for {int(silent)} s")
                last, gap = now, min(2 * gap, _MOST)


_watch = _Watch()
waiting, moved = _watch.waiting, _watch.moved
