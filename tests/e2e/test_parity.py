# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible and Salt make the same: compares what the labs of both kept (make e2e e2e-salt)."""

from __future__ import annotations

import json
import re

import pytest

from testing.e2e.outcome import KEPT, Outcome, differences

# What may differ between a lab provisioned by Ansible and one by Salt: what, and why.
EXCEPTIONS = {
    r"dom0 /etc/salt/pki.*": "Salt's own",
    r"qubes: (work|personal) .*": "only the tests of the backup have these qubes",
}


def kept(way: str) -> Outcome:
    """Return what one way's lab was provisioned with."""
    path = KEPT / f"{way}.json"
    if not path.exists():
        pytest.fail(f"there is no {path}: run `make e2e e2e-salt` first")
    outcome: Outcome = json.loads(path.read_text())
    return outcome


def test_both_ways_make_the_same() -> None:
    ansible, salt = kept("ansible"), kept("salt")
    for outcome in (ansible, salt):
        for key in ("dom0 /usr/bin/scrypt", "qubes: dedup-backup property netvm"):
            assert key in outcome
    unexplained = {
        key: both
        for key, both in differences(ansible, salt).items()
        if not any(re.fullmatch(pattern, key) for pattern in EXCEPTIONS)
    }
    assert unexplained == {}
