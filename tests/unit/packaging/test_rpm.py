# SPDX-License-Identifier: GPL-3.0-or-later
"""The RPM as packaging/build makes it, seen by rpm and rpmlint."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from testing.paths import PROJECT

PROGRAMS = "/usr/lib/qubes-dedup-backup/"
SHARED = "/usr/share/qubes-dedup-backup/"


def run(*argv: str | Path) -> str:
    """Run a command that must succeed and return what it prints."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The RPM, built from this checkout."""
    return Path(run("packaging/build", tmp_path_factory.mktemp("rpm")).strip())


@pytest.fixture(scope="session")
def files(package: Path) -> dict[str, tuple[str, str, str]]:
    """For each path in the RPM: SHA-256 (of files), what a link leads to, permissions."""
    columns = r"[%{FILENAMES}|%{FILEDIGESTS}|%{FILELINKTOS}|%{FILEMODES:perms}\n]"
    rows = run("rpm", "-qp", "--qf", columns, package).splitlines()
    return {path: (sha, link, mode) for path, sha, link, mode in (row.split("|") for row in rows)}


def content(package: Path, path: str, folder: Path) -> bytes:
    """Return a file of the RPM."""
    archive = folder / "archive"
    with archive.open("wb") as handle:
        subprocess.run(
            ["rpm2archive", "-n", "-"], stdin=package.open("rb"), stdout=handle, check=True
        )
    return subprocess.run(
        ["tar", "-xOf", archive, f".{path}"], check=True, capture_output=True
    ).stdout


@pytest.mark.thorough
def test_same_commit_same_bytes(package: Path, tmp_path: Path) -> None:
    again = Path(run("packaging/build", tmp_path).strip())
    assert again.name == package.name
    assert again.read_bytes() == package.read_bytes()


def test_rpmlint_has_nothing_to_say(package: Path) -> None:
    said = run("rpmlint", "--config", "packaging/rpmlint.toml", package)
    assert "0 errors, 0 warnings" in said, said


def test_programs_are_those_of_the_checkout(files: dict[str, tuple[str, str, str]]) -> None:
    """The user read them there; and all of them have to be there."""
    places = {
        "payload/backup_format": f"{PROGRAMS}backup_format/",
        "payload/dom0": PROGRAMS,
        "payload/qube": f"{SHARED}payload/qube/",
    }
    for folder, where in places.items():
        tracked = run("git", "ls-files", folder).splitlines()
        assert tracked
        for name in tracked:
            if (PROJECT / name).is_dir():  # a link to one of the other folders
                continue
            sha, link, mode = files[where + name.removeprefix(f"{folder}/")]
            path = PROJECT / name
            assert sha == hashlib.sha256(path.read_bytes()).hexdigest(), name
            assert (mode == "-rwxr-xr-x") == os.access(path, os.X_OK), name
            assert not link


def test_every_link_leads_to_a_file_of_the_package(files: dict[str, tuple[str, str, str]]) -> None:
    links = {path: link for path, (_, link, _) in files.items() if link}
    assert f"{SHARED}roles/shim/files/shimctl" in links
    for path, link in links.items():
        target = os.path.normpath(os.path.join(os.path.dirname(path), link))  # noqa: PTH118, PTH120
        inner = target.replace(f"{SHARED}payload/dom0", PROGRAMS.rstrip("/"))
        assert inner in files, f"{path} -> {link}"


def test_no_bytecode_and_no_versioned_folder(files: dict[str, tuple[str, str, str]]) -> None:
    assert [
        path for path in files if re.search(r"\.pyc$|__pycache__|/python3|site-packages", path)
    ] == []


def test_each_command_has_a_page_with_all_its_options(
    package: Path, files: dict[str, tuple[str, str, str]], tmp_path: Path
) -> None:
    commands = [path for path in files if path.startswith("/usr/bin/")]
    pages = [Path(path) for path in files if path.startswith("/usr/share/man/")]
    assert {path.name.split(".")[0] for path in pages} >= {Path(path).name for path in commands}
    for path in pages:
        name = path.name.split(".")[0]
        page = gzip.decompress(content(package, str(path), tmp_path)).decode()
        program = next(PROJECT.glob(f"payload/*/{name}"))
        top = run(program, "--help")
        texts = {"": top}
        if "COMMAND ..." in top:
            listed = top.partition("  COMMAND\n")[2].partition("\n\n")[0]
            names = re.findall(r"^    ([a-z][a-z-]*)(?:\s|$)", listed, re.MULTILINE)
            texts |= {command: run(program, command, "--help") for command in names}
        assert ("forget" in texts) == ("forget" in top)
        for command, text in texts.items():
            part = page.partition(f"\n.SH {command.upper()}\n")[2].partition("\n.SH ")[0]
            options = set(re.findall(r"--[a-z][a-z-]*", text))
            assert options
            where = part if command else page
            missing = {name for name in options if name.replace("-", "\\-") not in where}
            assert (command, missing) == (command, set())
        if shutil.which("groff"):
            argv = ["groff", "-man", "-Tutf8", "-ww"]
            done = subprocess.run(argv, check=True, capture_output=True, input=page.encode())
            assert done.stderr == b""


def test_settings_are_config_files_that_updates_leave_alone(package: Path) -> None:
    config = run("rpm", "-qp", "--configfiles", package).splitlines()
    folder = "/etc/qubes-dedup-backup"
    assert sorted(config) == [f"{folder}/group_vars/all.yml", f"{folder}/inventory"]
    flags = run("rpm", "-qp", "--qf", r"[%{FILENAMES} %{FILEFLAGS:fflags}\n]", package)
    assert all(f"{path} cn\n" in flags for path in config)
