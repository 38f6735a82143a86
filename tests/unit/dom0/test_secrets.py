# SPDX-License-Identifier: GPL-3.0-or-later
"""secrets: what must be kept off this machine, and with which command it is shown."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from testing.dom0.system import QUBE, Dom0
from testing.shim.driver import SECRET
from testing.store.driver import PASSWORD, Store


@pytest.fixture
def running(shared_dom0: Dom0) -> Dom0:
    """dom0, with a running backup qube and the usual profile."""
    shared_dom0.start_over()
    shared_dom0.qvm("qvm-start", "--skip-if-running", QUBE)
    return shared_dom0


@pytest.fixture(params=("restic", "borg"))
def store(request: pytest.FixtureRequest, tmp_path: Path, running: Dom0) -> Store:
    """A store with a repository."""
    made = Store(tmp_path, request.param)
    made.configure()
    made.make()
    running.real_store(made.environment)
    return made


def write(dom0: Dom0, name: str, text: str) -> Path:
    path = dom0.root.path / "etc/qubes/backup" / name
    path.write_text(text)
    return path


@pytest.mark.sampled(2)
def test_each_command_shows_its_secret(running: Dom0, store: Store) -> None:
    found = running.json("secrets", code=0)
    assert found["unknown"] == []
    rows = {row["secret"]: row for row in found["secrets"]}
    borg = ["borg key"] if store.engine == "borg" else []
    assert list(rows) == ["backup passphrase", "repository password", *borg]
    assert {row["profile"] for row in rows.values()} == {"dedup-backup"}
    told = running("secrets")
    for text in (json.dumps(found), told.stdout.decode(), told.stderr.decode()):
        assert SECRET.decode() not in text
        assert PASSWORD not in text
    running.lab.service(QUBE, "qubes.VMShell", f"PATH={running.lab.state}/bin:$PATH exec bash")
    shown = {}
    for secret, row in rows.items():
        assert row["command"] in told.stdout.decode()
        words = shlex.split(row["command"])
        if words[0] == "qvm-run":
            words[:1] = running.lab.dom0_command("qvm-run")
        else:
            assert words.pop(0) == "sudo"
        shown[secret] = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout.decode()
    assert SECRET.decode() in shown["backup passphrase"]
    assert PASSWORD in shown["repository password"]
    assert borg == [] or "BORG_KEY" in shown["borg key"]


def test_a_store_that_is_not_encrypted(running: Dom0, tmp_path: Path) -> None:
    store = Store(tmp_path, "directory")
    store.configure()
    running.real_store(store.environment)
    found = running.json("secrets", code=0)
    assert [row["secret"] for row in found["secrets"]] == ["backup passphrase"]
    assert found["unencrypted"] == [f"the store default in {QUBE}"]
    assert b"it is not encrypted" in running("secrets").stdout


def test_other_profiles(running: Dom0, tmp_path: Path) -> None:
    store = Store(tmp_path, "borg")
    store.configure()
    running.real_store(store.environment)
    to_store = f"destination_vm: {QUBE}\ndestination_path: dedup-store put\n"
    paths = [
        write(running, "a-disk.conf", "destination_vm: dom0\ndestination_path: /mnt\n"),
        write(running, "b-asks.conf", to_store + "passphrase_vm: vault\n"),
        write(running, "c-broken.conf", "passphrase_text: [very secret\n"),
        write(running, "d-lost.conf", to_store.replace(QUBE, "nobody") + "passphrase_text: x\n"),
        write(running, "e-off.conf", to_store.replace(QUBE, "vault") + "passphrase_text: x\n"),
        write(running, "f x.conf", to_store),
    ]
    running.qvm("qvm-create", "--label", "gray", "vault")
    try:
        found = running.json("secrets", code=3)
    finally:
        running.qvm("qvm-remove", "--force", "vault")
        for path in paths:
            path.unlink()
    rows = [(row["profile"], row["secret"], row["command"]) for row in found["secrets"]]
    grep = f"sudo grep passphrase_text {running.root.path}/etc/qubes/backup/"
    assert rows == [  # there is no repository password yet
        ("b-asks", "backup passphrase", None),
        ("d-lost", "backup passphrase", f"{grep}d-lost.conf"),
        ("dedup-backup", "backup passphrase", f"{grep}dedup-backup.conf"),
        ("e-off", "backup passphrase", f"{grep}e-off.conf"),
    ]
    assert [text.partition(":")[0] for text in found["unknown"]] == [
        "profile c-broken",
        "profile d-lost",
        "profile e-off",
    ]
    assert "start it with `qvm-start vault`" in found["unknown"][2]
    assert "very secret" not in json.dumps(found)


@pytest.mark.parametrize(
    "answer", ["{}", '{"secrets": "password"}', '{"secrets": ["rm -rf"]}', '{"secrets": [[]]}']
)
def test_answers_that_make_no_sense(running: Dom0, answer: str) -> None:
    running.store(f"echo '{answer}'")
    found = running.json("secrets", code=3)
    assert [row["secret"] for row in found["secrets"]] == ["backup passphrase"]
    assert "malformed reply" in found["unknown"][0]
