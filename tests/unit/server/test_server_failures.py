# SPDX-License-Identifier: GPL-3.0-or-later
"""What can fail of a put, with a repository in a storage qube."""

import pytest

from testing.store.put_cases import (
    test_engine_that_is_killed,
    test_full_disk,
    test_put_that_is_ended,
    test_stream_that_is_cut,
    test_two_puts_at_once,
)

pytestmark = pytest.mark.thorough

__all__ = [  # they take this folder's stores
    "test_engine_that_is_killed",
    "test_full_disk",
    "test_put_that_is_ended",
    "test_stream_that_is_cut",
    "test_two_puts_at_once",
]
