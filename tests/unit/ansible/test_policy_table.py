# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy file that the role `qrexec_policy` writes, asked about every call there could be."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from qubeslab.policy import Denied, Loader, PolicySyntaxError, decide
from qubeslab.policy_files import Dom0Files

from testing.ansible.policy_role import apply, refused
from testing.ansible.policy_table import DOMAINS, OTHERS, OURS, STORAGE, calls, is_allowed

DEFAULT, BOTH = ("restic+default",), ("restic+default", "borg+archive")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The lab logs a warning about each call to a qube that isn't there."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("storage", "repositories"), [("", DEFAULT), (STORAGE, DEFAULT), (STORAGE, BOTH)]
)
def test_every_call(tmp_path: Path, storage: str, repositories: tuple[str, ...]) -> None:
    """Also with files beside ours that allow everything, but those that come first."""
    apply(tmp_path, storage, repositories)
    (tmp_path / "etc/qubes/policy.d/80-others.policy").write_text(OTHERS)
    rules = Loader(Dom0Files(tmp_path)).load()
    ours = others = 0
    for call in calls():
        try:
            target = decide(rules, call, DOMAINS).target
        except (Denied, PolicySyntaxError):
            target = ""
        if call.service not in OURS:
            others += bool(target)
            continue
        allowed = is_allowed(call, storage, repositories)
        assert target == (STORAGE if allowed else ""), call
        ours += allowed
    # Two services, by name and by uuid, once for each repository.
    assert ours == (4 * len(repositories) if storage else 0)
    assert others > 10_000


def test_the_file_itself(tmp_path: Path) -> None:
    text = apply(tmp_path, STORAGE, BOTH).read_text()
    rules = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    assert rules == [
        ["dedupbackup.Restore", "*", "*", "*", "deny"],
        ["dedupbackup.Repository", "+restic+default", "dedup-backup", "dedup-storage", "allow"],
        ["dedupbackup.Repository", "+borg+archive", "dedup-backup", "dedup-storage", "allow"],
        ["dedupbackup.Repository", "*", "*", "*", "deny"],
        ["dedupbackup.Maintenance", "+restic+default", "dedup-backup", "dedup-storage", "allow"],
        ["dedupbackup.Maintenance", "+borg+archive", "dedup-backup", "dedup-storage", "allow"],
        ["dedupbackup.Maintenance", "*", "*", "*", "deny"],
        ["dedupbackup.MaintenanceOpen", "*", "*", "*", "deny"],
    ]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("storage", "repository", "message"),
    [
        ("@anyvm", "restic+a", "storage_qube can't be '@anyvm': use"),
        ("*", "restic+a", "storage_qube can't be '*': use"),
        ("dedup-backup", "restic+a", "must be two qubes"),
        ("a * * allow", "restic+a", "storage_qube can't be 'a * * allow': use"),
        ("a\n* * * * allow", "restic+a", "storage_qube can't be 'a * * * * allow': use"),
        (STORAGE, "restic+a.b", "repositories:0:name can't be 'a.b': use"),
        (STORAGE, "restic+a+b", "repositories:0:name can't be 'a+b': use"),
        (STORAGE, "restic+a @anyvm", "repositories:0:name can't be 'a @anyvm': use"),
        (STORAGE, "restic+", "repositories:0:name can't be '': use"),
        (STORAGE, "rclone+a", "value of engine must be one of"),
    ],
)
def test_names_that_would_open_more(
    tmp_path: Path, storage: str, repository: str, message: str
) -> None:
    assert message in refused(tmp_path, storage, (repository,))
    assert list((tmp_path / "etc/qubes/policy.d").iterdir()) == []
