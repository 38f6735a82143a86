# SPDX-License-Identifier: GPL-3.0-or-later
"""The services in a qube, called as the multiplexer does: stdin, PATH, nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from testing.lab.system import write_archive
from testing.paths import LAB

SERVICES = LAB / "qube/rpc"
DATA = os.urandom(300_000)


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """The first folder of PATH: the lab's helpers, and a `sync` that only notes its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("tar2qfile", "restore-from"):
        (folder / name).symlink_to(LAB / "qube/lib" / name)
    program(folder / "sync", f'echo "sync $*" >>{tmp_path}/calls')
    return folder


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def call(
    service: str, bin_folder: Path, stdin: bytes, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(SERVICES / service)],
        check=False,
        input=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={"PATH": f"{bin_folder}:{os.environ['PATH']}"},
    )


def test_backup_to_a_folder(bin_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "a folder"
    target.mkdir()
    done = call("qubes.Backup", bin_folder, f"{target}\n".encode() + DATA)
    assert done.returncode == 0
    (stored,) = target.iterdir()
    assert stored.name.startswith("qubes-backup-")
    assert stored.read_bytes() == DATA
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"sync --file-system -- {target}",
        f"sync -- {target}",
    ]


def test_backup_to_a_command_with_quotes(bin_folder: Path, tmp_path: Path) -> None:
    program(bin_folder / "store", 'printf "%s|" "$@" >"$1"; cat >>"$1"')
    target = tmp_path / "with blank"
    done = call("qubes.Backup", bin_folder, f"store '{target}' \"two words\" x\n".encode() + DATA)
    assert done.returncode == 0
    assert target.read_bytes() == f"{target}|two words|x|".encode() + DATA
    assert (tmp_path / "calls").read_text() == "sync \nsync \n"


def test_backup_gives_the_commands_exit_code(bin_folder: Path, tmp_path: Path) -> None:
    program(bin_folder / "store", "cat >/dev/null; echo no room >&2; exit 7")
    done = call("qubes.Backup", bin_folder, b"store\n" + DATA)
    assert (done.returncode, done.stderr) == (7, b"no room\n")
    assert (tmp_path / "calls").read_text() == "sync \n", "no sync after a failure"


def test_backup_to_nothing(bin_folder: Path) -> None:
    assert call("qubes.Backup", bin_folder, b"no-such-command x\n").returncode == 1


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "an archive"
    write_archive(path, [("backup-header", b"version=4\n"), ("vm7/private.img.000.enc", DATA)])
    return path


class Dom0:
    """The other side of the services that restore: the real unpacker, connected both ways."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        """Unpack into FOLDER/out."""
        self.out = folder / "out"
        self.registry = folder / "run/qubes-backup-location"
        path = f"{bin_folder}:{os.environ['PATH']}"
        self._env = {"PATH": path, "XDG_RUNTIME_DIR": str(folder / "run")}
        self.errors = ""

    def restore(self, location: str, names: str) -> tuple[int, int]:
        """Call qubes.Restore; return the exit codes of the service and of the unpacker."""
        return self._call(["qubes.Restore"], f"{location}\n{names}\n")

    def restore_by_id(self, identity: str, names: str) -> tuple[int, int]:
        """Call qubes.RestoreById; return the exit codes of the service and of the unpacker."""
        return self._call(["qubes.RestoreById", *([identity] if identity else [])], f"{names}\n")

    @contextmanager
    def registered(self, location: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        """Hold a call of qubes.RegisterBackupLocation open; give what it prints, and itself."""
        pipe = subprocess.PIPE
        service = str(SERVICES / "qubes.RegisterBackupLocation")
        with subprocess.Popen([service], stdin=pipe, stdout=pipe, env=self._env) as held:
            assert held.stdin and held.stdout
            held.stdin.write(f"{location}\n".encode())
            held.stdin.flush()
            yield held.stdout.read().decode().strip(), held

    def _call(self, words: list[str], data: str) -> tuple[int, int]:
        pipe = subprocess.PIPE
        service = subprocess.Popen(
            [str(SERVICES / words[0]), *words[1:]],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=self._env,
        )
        assert service.stdin and service.stdout and service.stderr
        with suppress(BrokenPipeError):  # it may refuse without reading
            service.stdin.write(data.encode())
            service.stdin.flush()
        unpacker = subprocess.Popen(
            [str(LAB / "dom0/lib/qfile-dom0-unpacker"), str(os.getuid()), str(self.out), "-v"],
            stdin=service.stdout,
            stdout=service.stdin,
            stderr=subprocess.DEVNULL,
        )
        with suppress(BrokenPipeError):
            service.stdin.close()
        service.stdout.close()
        self.errors = service.stderr.read().decode()
        service.stderr.close()
        return service.wait(), unpacker.wait()

    def names(self) -> list[str]:
        """Return what arrived."""
        return sorted(str(p.relative_to(self.out)) for p in self.out.rglob("*") if p.is_file())


@pytest.fixture
def dom0(tmp_path: Path, bin_folder: Path) -> Dom0:
    return Dom0(tmp_path, bin_folder)


def test_restore_from_a_file_with_a_blank_in_its_name(dom0: Dom0, archive: Path) -> None:
    assert dom0.restore(str(archive), "vm7/") == (0, 0)
    assert dom0.names() == ["vm7/private.img.000.enc"]
    assert (dom0.out / "vm7/private.img.000.enc").read_bytes() == DATA


def test_restore_from_a_command(dom0: Dom0, archive: Path) -> None:
    assert dom0.restore(f"cat '{archive}'", "backup-header vm7/") == (0, 0)
    assert dom0.names() == ["backup-header", "vm7/private.img.000.enc"]


def test_the_commands_own_exit_code_does_not_count(
    dom0: Dom0, archive: Path, bin_folder: Path
) -> None:
    program(bin_folder / "fetch", f"cat '{archive}'; exit 9")
    assert dom0.restore("fetch", "vm7/") == (0, 0)
    program(bin_folder / "fetch", "exit 9")
    assert dom0.restore("fetch", "vm7/") == (0, 0), "nothing at all is a successful short stream"


def test_the_command_reads_nothing_from_dom0(dom0: Dom0, archive: Path, bin_folder: Path) -> None:
    program(bin_folder / "fetch", f'[ -z "$(cat)" ] && cat "{archive}"')
    assert dom0.restore("fetch", "vm7/") == (0, 0)
    assert dom0.names() == ["vm7/private.img.000.enc"]


def test_no_folder_is_left_behind(
    dom0: Dom0, archive: Path, tmp_path: Path, bin_folder: Path
) -> None:
    program(bin_folder / "mktemp", f"mkdir {tmp_path}/scratch && echo {tmp_path}/scratch")
    assert dom0.restore(f"cat '{archive}'", "vm7/") == (0, 0)
    assert not (tmp_path / "scratch").exists()


def test_restore_from_nothing(dom0: Dom0) -> None:
    status, unpacker = dom0.restore("no-such-command", "vm7/")
    assert status == 2
    assert unpacker != 0
    assert "no-such-command" in dom0.errors


def test_a_registered_location_is_restored_from_while_the_call_lasts(
    dom0: Dom0, archive: Path
) -> None:
    with dom0.registered(f"cat '{archive}'") as (identity, _):
        assert [entry.name for entry in dom0.registry.iterdir()] == [identity]
        assert dom0.restore_by_id(identity, "vm7/") == (0, 0)
        assert dom0.names() == ["vm7/private.img.000.enc"]
        other = identity.swapcase()
        assert dom0.restore_by_id(other, "backup-header")[0] == 1
        assert dom0.errors == "Invalid location ID\n"
    assert not list(dom0.registry.iterdir())
    assert dom0.restore_by_id(identity, "backup-header")[0] == 1
    assert dom0.errors == "Invalid location ID\n"
    assert dom0.names() == ["vm7/private.img.000.enc"]


def test_a_registered_command_s_own_exit_code_counts(dom0: Dom0, archive: Path) -> None:
    with dom0.registered(f"sh -c \"cat '{archive}'; exit 9\"") as (identity, _):
        assert dom0.restore_by_id(identity, "vm7/") == (9, 0)


def test_a_registered_file(dom0: Dom0, archive: Path) -> None:
    with dom0.registered(str(archive)) as (identity, _):
        assert dom0.restore_by_id(identity, "backup-header") == (0, 0)
    assert dom0.names() == ["backup-header"]


def test_a_killed_call_is_no_registration(dom0: Dom0, archive: Path) -> None:
    with dom0.registered(str(archive)) as (identity, held):
        held.kill()
        held.wait()
        assert (dom0.registry / identity).exists()
        assert dom0.restore_by_id(identity, "vm7/")[0] == 1
        assert dom0.errors == "Invalid location ID\n"
        # Nor is it one when another process has its number by now.
        (dom0.registry / identity).write_text(f"{os.getpid()} 1\n{archive}\n")
        assert dom0.restore_by_id(identity, "vm7/")[0] == 1
    assert dom0.names() == []


def test_restore_by_no_id(dom0: Dom0) -> None:
    assert dom0.restore_by_id("", "vm7/")[0] == 1
    assert dom0.errors == "Missing backup location ID argument\n"
