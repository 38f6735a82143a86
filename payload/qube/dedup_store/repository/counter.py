# SPDX-License-Identifier: GPL-3.0-or-later
"""The counter that numbers the runs of a repository (archive/order.py).

The counter is a file's size, which grows by a byte for each run: an append is atomic and can't go
back (write(2), O_APPEND). Its time of change is the date of the run that was counted last.

The file can be old: this qube's volume was reverted, its home restored, or another qube has stored
runs. So it is compared with the runs at the first put after each start of the qube, and whenever it
isn't the file of the last count. A file beside it records both.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dedup_store.archive.manifest import FORMAT
from dedup_store.archive.order import order_of
from dedup_store.config import Config, state_file
from dedup_store.errors import FormatError, StoreError
from dedup_store.system import notify

_SLACK = 2  # seconds
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # drivers/char/random.c random_table


def count(config: Config, listed: Callable[[], Iterable[dict[str, Any]]]) -> int:
    """Return the number of a new run.

    Args:
        config: the repository's.
        listed: lists its runs; called when that costs little, when the counter may be old, isn't
            there, or can't be written.

    Returns:
        The number; it isn't recorded when the counter can't be written.

    Raises:
        FormatError: the repository has runs of another version's format.
        StoreError: the runs had to be listed, and can't be.
    """
    path, now = state_file(config, "order"), time.time()
    is_right = config.engine != "directory" and _is_right(config)
    if not is_right:
        try:
            raise_to(config, listed())
            is_right = True
        except FormatError:
            raise
        except StoreError as error:
            if not path.exists():
                raise
            notify.warn(f"can't find out whether the counter {path} is old: {error}")
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "wb", buffering=0) as counter:
            file = counter.fileno()
            last = os.fstat(file).st_mtime
            counter.write(b"\n")
            os.fsync(file)
            number = os.lseek(file, 0, os.SEEK_CUR)  # our byte's end, even if others append, too
            os.utime(file, (now, now))
        if is_right:
            _record_state(config)
    except OSError as error:
        notify.warn(f"{path}: {error.strerror}: so the run's number is taken from the list")
        return max(map(order_of, listed()), default=0) + 1
    if last > now + _SLACK:
        notify.warn(
            f"the run before this one is dated {_date(last)}, and it is {_date(now)} now: this"
            " qube's clock is, or was, wrong; the order of runs is that in which they came"
        )
    return number


def raise_to(config: Config, runs: Iterable[dict[str, Any]]) -> None:
    """Raise the counter to the numbers of these runs, as far as it can be written."""
    most, path = max(map(order_of, runs), default=0), state_file(config, "order")
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_size >= most:
            _record_state(config)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as counter:
            before = os.fstat(counter.fileno())
            counter.write(b"\n" * max(0, most - before.st_size))
            os.fsync(counter.fileno())
            when = before.st_mtime if before.st_size else 0
            os.utime(counter.fileno(), (when, when))
        _record_state(config)


def _is_right(config: Config) -> bool:
    """Return whether the counter was compared since the qube started, and is the same file."""
    with contextlib.suppress(OSError):
        return state_file(config, "counted").read_bytes() == _state(config)
    return False


def _record_state(config: Config) -> None:
    """Record that the counter is right; if that fails, it is compared once more."""
    with contextlib.suppress(OSError):
        state_file(config, "counted").write_bytes(_state(config))


def _state(config: Config) -> bytes:
    """Return this start of the qube, the format, and the counter's ctime, which no program sets."""
    changed = state_file(config, "order").stat().st_ctime_ns
    return _BOOT_ID.read_bytes() + f"{FORMAT} {changed}\n".encode()


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
