# SPDX-License-Identifier: GPL-3.0-or-later
"""For all tests: signals as in an ordinary session, also under nohup, `&` or a CI runner.

And no failure because a machine is slow.
"""

import signal
import sys
import zlib
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# not beside the programs, which the playbooks lay down from there
sys.pycache_prefix = str(Path(__file__).parents[1] / ".cache/pycache")

pytest.register_assert_rewrite("testing")  # says of what an assertion there was made

# Programs inherit what is ignored, and many tests are about what a hang-up or a ^C does.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("slow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slow")


@pytest.hookimpl(tryfirst=True)  # before the tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out of CI what `sampled` says: tests begin at different variants, always the same."""
    variants: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("thorough"):
            variants[item.nodeid.partition("[")[0]].append(item)
    for name, found in variants.items():
        marker = found[0].get_closest_marker("sampled")
        assert marker
        (share,) = marker.args
        first = zlib.crc32(name.encode()) % min(share, len(found))  # one of them in any case
        for number, item in enumerate(found):
            if number % share != first:
                item.add_marker("thorough")
