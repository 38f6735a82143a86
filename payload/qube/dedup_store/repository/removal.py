# SPDX-License-Identifier: GPL-3.0-or-later
"""The removal of runs, apart from all else, and with room for the next removal."""

import contextlib
from collections.abc import Iterator

from dedup_store.errors import NoRunError
from dedup_store.repository.opening import Opened
from dedup_store.repository.reserve import Reserve


@contextlib.contextmanager
def removing(opened: Opened, reserve: Reserve) -> Iterator[None]:
    """Record that runs are being removed; afterwards reserve room again, however it ended.

    The record of a removal that was cut short stays: the next command cleans up after it. One
    that ended with NoRunError has removed nothing.

    Args:
        opened: the repository, opened to remove.
        reserve: its reserve, which the caller gives up when that is needed.
    """
    opened.lock.begin_removal()
    try:
        opened.engine.unlock()
        yield
        opened.lock.end()
    except NoRunError:
        opened.lock.end()
        raise
    finally:
        reserve.renew()
