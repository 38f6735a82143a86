# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab itself: what persists, who may call whom, and what it says when something is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from qubeslab.paths import LAB_DIR
from qubeslab.session import Session


@pytest.fixture
def started(fresh_lab: Session) -> Iterator[Session]:
    """The lab with qube `personal` running."""
    fresh_lab.dom0("qvm-start", "--skip-if-running", "personal")
    yield fresh_lab
    fresh_lab.dom0("qvm-shutdown", "--wait", "personal", check=False)


def lab_command(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the `lab` command as a user would."""
    return subprocess.run(
        [str(LAB_DIR / "lab"), *args],
        env=dict(os.environ, **env),
        capture_output=True,
        text=True,
        check=False,
    )


def test_only_rw_persists_over_a_restart(started: Session) -> None:
    started.run("personal", "touch", "/home/user/kept", "/usr/local/kept", user="root")
    started.run("personal", "touch", "/etc/lost", "/var/lost", user="root")
    started.dom0("qvm-shutdown", "--wait", "personal")
    started.dom0("qvm-start", "personal")
    there = started.run(
        "personal",
        "ls",
        "/home/user/kept",
        "/usr/local/kept",
        "/etc/lost",
        "/var/lost",
        check=False,
    )
    assert there.stdout.split() == ["/home/user/kept", "/usr/local/kept"]


def test_a_qube_s_own_scripts_run_at_each_start_as_root(started: Session) -> None:
    scripts = {"rc.local": "755", "rc.local.d/b.rc": "755", "rc.local.d/a.rc": "755"}
    scripts |= {"rc.local.d/not-executable.rc": "644", "rc.local.d/not-called.rc.old": "755"}
    started.run("personal", "mkdir", "-p", "/rw/config/rc.local.d", user="root")
    for name, mode in scripts.items():
        text = f'#!/bin/sh\necho "{name} $(id -un)" >>/run/started\n[ {name} != rc.local.d/a.rc ]\n'
        path = f"/rw/config/{name}"
        started.run("personal", "tee", path, stdin=text.encode(), user="root")
        started.run("personal", "chmod", mode, path, user="root")
    try:
        started.dom0("qvm-shutdown", "--wait", "personal")
        started.dom0("qvm-start", "personal")
        done = started.dom0("qvm-run", "--pass-io", "--no-gui", "personal", "cat /run/started")
    finally:
        remove = ("rm", "-r", "/rw/config/rc.local", "/rw/config/rc.local.d")
        started.run("personal", *remove, user="root")
    assert done.stdout.splitlines() == [
        "rc.local.d/a.rc root",
        "rc.local.d/b.rc root",
        "rc.local root",
    ]


@pytest.fixture
def disk(started: Session, tmp_path: Path) -> Iterator[Path]:
    """An image with a file system labelled `a disk`, and its line in the fstab of `personal`."""
    image = tmp_path / "image"
    with image.open("wb") as handle:
        handle.truncate(10_000_000)
    subprocess.run(["mkfs.ext4", "-q", "-L", "a disk", str(image)], check=True)
    line = b"LABEL=a\\040disk /mnt/disk auto noauto,user,nosuid,nodev,noexec 0 0\n"
    started.run("personal", "mkdir", "-p", "/mnt/disk", user="root")
    started.run("personal", "tee", "-a", "/etc/fstab", stdin=line, user="root")
    yield image
    if not started.containers.is_running("personal"):
        return
    started.run("personal", "umount", "/mnt/disk", user="root", check=False)
    lab_command("detach-disk", "personal", str(image), LAB_NAME=started.name)


def test_the_user_mounts_an_attached_disk_by_its_label(started: Session, disk: Path) -> None:
    command = ("mount", "/mnt/disk")
    before = started.run("personal", *command, check=False)
    assert before.returncode != 0
    assert "can't find LABEL" in before.stderr
    attached = lab_command("attach-disk", "personal", str(disk), LAB_NAME=started.name)
    assert (attached.returncode, attached.stdout) == (0, "/dev/xvdi\n")
    started.run("personal", *command)
    try:
        started.run("personal", "chmod", "777", "/mnt/disk", user="root")
        started.run("personal", "tee", "/mnt/disk/file", stdin=b"kept")
        mounted = lab_command("detach-disk", "personal", str(disk), LAB_NAME=started.name)
        assert (mounted.returncode, "mounted at /mnt/disk" in mounted.stderr) == (1, True)
    finally:
        started.run("personal", "umount", "/mnt/disk")
    found = started.run("personal", "blkid", "--label", "a disk", user="root").stdout
    assert found == "/dev/xvdi\n"
    assert lab_command("detach-disk", "personal", str(disk), LAB_NAME=started.name).returncode == 0
    assert started.run("personal", *command, check=False).returncode != 0
    gone = started.run("personal", "ls", "/dev/xvdi", "/dev/disk/by-label/a\\x20disk", check=False)
    assert gone.stdout == ""
    lab_command("attach-disk", "personal", str(disk), LAB_NAME=started.name)
    started.run("personal", *command)
    assert started.run("personal", "cat", "/mnt/disk/file").stdout == "kept"


def test_a_disk_is_gone_when_its_qube_stops(started: Session, disk: Path) -> None:
    for _ in range(2):
        attached = lab_command("attach-disk", "personal", str(disk), LAB_NAME=started.name)
        assert (attached.returncode, attached.stdout) == (0, "/dev/xvdi\n")
        twice = lab_command("attach-disk", "personal", str(disk), LAB_NAME=started.name)
        assert (twice.returncode, "attached already" in twice.stderr) == (1, True)
        started.dom0("qvm-shutdown", "--wait", "personal")
        loops = subprocess.run(["losetup", "-j", str(disk)], check=True, capture_output=True)
        assert loops.stdout == b""
        halted = lab_command("attach-disk", "personal", str(disk), LAB_NAME=started.name)
        assert (halted.returncode, "not running" in halted.stderr) == (1, True)
        started.dom0("qvm-start", "personal")


def test_dom0_runs_commands_with_streams_users_and_exit_codes(started: Session) -> None:
    done = started.dom0(
        *("qvm-run", "--pass-io", "--no-gui", "personal", "id -un; cat; echo err >&2; exit 7"),
        stdin=b"through",
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, "user\nthrough")
    assert "err" in done.stderr
    root = started.dom0("qvm-run", "--pass-io", "--no-gui", "-u", "root", "personal", "id -un")
    assert root.stdout == "root\n"


def test_a_qube_may_call_only_what_policy_allows(started: Session) -> None:
    started.dom0("qvm-start", "--skip-if-running", "work")
    try:
        call = ("qrexec-client-vm", "work", "lab.Echo+arg")
        service = b'#!/bin/sh\necho "$QREXEC_REMOTE_DOMAIN $1"; cat\n'
        started.run("work", "mkdir", "-p", "/usr/local/etc/qubes-rpc", user="root")
        target = "/usr/local/etc/qubes-rpc/lab.Echo"
        started.run("work", "tee", target, stdin=service, user="root")
        started.run("work", "chmod", "755", target, user="root")

        refused = started.run("personal", *call, stdin=b"x", check=False)
        assert (refused.returncode, refused.stdout) == (126, "")

        rule = b"lab.Echo +arg personal work allow\n"
        policy = "/etc/qubes/policy.d/30-lab-test.policy"
        started.dom0("sudo", "tee", policy, stdin=rule)
        try:
            allowed = started.run("personal", *call, stdin=b"x")
            other = started.run(
                "personal", "qrexec-client-vm", "work", "lab.Echo+other", check=False
            )
            started.dom0("sudo", "tee", "-a", policy, stdin=b"a line that is no rule\n")
            broken = started.run("personal", *call, stdin=b"x", check=False)
        finally:
            started.dom0("sudo", "rm", policy)
        assert allowed.stdout == "personal arg\nx"
        assert other.returncode == 126
        assert broken.returncode == 126
    finally:
        started.dom0("qvm-shutdown", "--wait", "work")


def test_status_tells_of_a_container_that_died(started: Session) -> None:
    os.kill(started.containers.pid("personal"), signal.SIGKILL)
    while started.containers.is_running("personal"):
        pass
    status = lab_command("status", LAB_NAME=started.name)
    assert status.returncode == 1
    assert "died     personal" in status.stdout
    run = lab_command("run", "personal", "true", LAB_NAME=started.name)
    assert run.returncode == 1
    assert "personal is not running" in run.stderr
    assert (
        started.dom0("qvm-ls", "--raw-data", "--fields=state", "personal").stdout.strip()
        == "Halted"
    )
    started.dom0("qvm-start", "personal")


def test_down_ends_what_still_runs_inside() -> None:
    name = "stopping"
    command = [str(LAB_DIR / "lab"), "run", "dom0", "sh", "-c", "echo started; exec sleep 600"]
    try:
        assert lab_command("up", "--dom0-only", LAB_NAME=name).returncode == 0
        env = dict(os.environ, LAB_NAME=name)
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as inside:
            assert inside.stdout is not None
            assert inside.stdout.readline() == b"started\n"
            done = lab_command("down", LAB_NAME=name)
            assert (done.returncode, done.stderr) == (0, "")
    finally:
        lab_command("down", "--destroy", LAB_NAME=name)


def test_missing_podman_is_a_clear_error() -> None:
    done = lab_command("up", "--dom0-only", LAB_NAME="nopodman", PATH="/usr/sbin")
    lab_command("down", "--destroy", LAB_NAME="nopodman")
    assert done.returncode == 1
    assert "make setup" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_input_is_refused() -> None:
    assert "bad lab name" in lab_command("status", LAB_NAME="../x").stderr
    missing = lab_command("add-qube", "three", "--data", "/no/such/folder")
    assert (missing.returncode, "no such folder" in missing.stderr) == (1, True)
