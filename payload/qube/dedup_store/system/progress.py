# SPDX-License-Identifier: GPL-3.0-or-later
"""A line on a terminal that shows the progress; only for a terminal.

A thread looks at a counter that is there anyway, so that it costs the bytes themselves nothing.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

from dedup_store.system import notify

_STDERR = 2
_PAUSE = 0.5  # seconds


@contextlib.contextmanager
def shown(position: Callable[[], int]) -> Iterator[None]:
    """Show a line while something goes on, if stderr is a terminal; remove it at the end.

    Args:
        position: gives the bytes so far; called by another thread.
    """
    if not os.isatty(_STDERR):
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_show, args=(position, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        notify.clear_line()


def _show(position: Callable[[], int], ended: threading.Event) -> None:
    start = time.monotonic()
    while not ended.wait(_PAUSE):
        notify.line(_text(position(), time.monotonic() - start))


def _text(done: int, seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    speed = notify.size(int(done / seconds))
    return f"{notify.size(done)}  {speed}/s  {hours}:{minute:02}:{second:02}"
