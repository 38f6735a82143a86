# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration, password file, init: what is refused, and with which words."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from testing.store.driver import PAYLOAD, Store, refusal


@pytest.fixture
def bare_store(tmp_path: Path) -> Store:
    """A configuration, without a repository."""
    store = Store(tmp_path, "borg")
    store.configure()
    return store


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'engine' must be one of: restic, borg, directory"),
        ('engine = "tar"', "'engine' must be one of: restic, borg, directory"),
        ('engine = "directory"\nlocation = "qrexec:a/b"', "'location' must be an absolute"),
        ('engine = "directory"\nlocation = "rclone:a:b"', "'location' must be an absolute"),
        ('engine = "directory"\nlocation = "u@host:/x"', "'location' must be an absolute"),
        ('engine = "directory"\npassword_file = "/p"', "it encrypts nothing"),
        ("engine = 3", "'engine' must be a string"),
        ('engine = "borg"\nchunker = "x"', "unknown key 'chunker'"),
        ('engine = "borg"\n"\\u001b[2J" = 1', "unknown key '[2J'"),
        ('engine = "borg"\nlock_wait = "x"', "'lock_wait' must be a whole number"),
        ('engine = "borg"\nlock_wait = true', "'lock_wait' must be a whole number"),
        ('engine = "borg"\nlock_wait = -1', "'lock_wait' must be between"),
        ('engine = "borg"\nlocation = "relative/path"', "'location' must be an absolute path"),
        ('engine = "borg"\nlocation = "--help"', "'location' must be an absolute path"),
        ('engine = "borg"\nlocation = "/a::b"', "'location' has a control character or '::'"),
        ('engine = "borg"\nlocation = "/a\\nb"', "'location' has a control character or '::'"),
        ('engine = "borg"\nlocation = "/a/../b"', "'location' must have no '..' in it"),
        ('engine = "borg"\npassword_file = "p"', "'password_file' must be an absolute path"),
        ('engine = "borg"\ncompression = "zstd,23"', "'compression' must be none, lz4, zstd,N"),
        ('engine = "borg"\ncompression = "lz4 --dry-run"', "'compression' must be none"),
        ('engine = "borg"\nchunks = "tiny"', "'chunks' must be large, medium or small"),
        ('engine = "borg"\npack_size = 16', "engine = 'borg' has no 'pack_size'"),
        ('engine = "restic"\ncompression = "zstd,3"', "'compression' must be auto, off"),
        ('engine = "restic"\nchunks = "small"', "engine = 'restic' has no 'chunks'"),
        ('engine = "restic"\npack_size = 3', "'pack_size' must be between 4 and 128"),
        ('engine = "restic"\npack_size = true', "'pack_size' must be a whole number"),
        ('engine = "directory"\ncompression = "auto"', "'directory' has no 'compression'"),
        ("engine = ", "is not valid TOML"),
        ("#" * 70_000, "is larger than"),
    ],
)
def test_configuration_errors(bare_store: Store, text: str, reason: str) -> None:
    bare_store.config.write_text(text)
    message = refusal(bare_store, "list")
    assert reason in message
    assert "default.toml" in message


def test_configuration_that_is_not_text(bare_store: Store) -> None:
    bare_store.config.write_bytes(b"\xff\xfe")
    assert "is not valid TOML" in refusal(bare_store, "list")


def test_configuration_that_is_absent(bare_store: Store) -> None:
    message = refusal(bare_store, "list", "--repository", "other")
    assert "other.toml does not exist" in message


@pytest.mark.parametrize(
    "name", ["../default", "", "a/b", ".hidden", "-x", "a" * 65, "a\x1b[2J", "ä"]
)
def test_repository_names(bare_store: Store, name: str) -> None:
    message = refusal(bare_store, "list", f"--repository={name}")
    assert "isn't a repository name" in message
    assert "\x1b" not in message


def test_another_repository_of_the_same_folder(bare_store: Store) -> None:
    shutil.copy(bare_store.config, bare_store.config.with_name("second-1.toml"))
    line = b"another invented password\n"
    assert bare_store.run("set-password", "--repository", "second-1", data=line).returncode == 0
    assert bare_store.config.with_name("second-1.password").read_bytes() == line
    assert not bare_store.password.exists()


def test_json_has_the_error_too(bare_store: Store) -> None:
    result = bare_store.run("list", "--json", "--repository", "other")
    assert result.returncode == 2
    report = json.loads(result.stdout)
    assert report["exit_code"] == 2
    assert "other.toml does not exist" in report["error"]


@pytest.mark.parametrize(
    ("mode", "command"),
    [(0o644, ["list"]), (0o640, ["get", "latest"]), (0o604, ["put"]), (0o660, ["init"])],
)
def test_password_file_open_to_others(borg_store: Store, mode: int, command: list[str]) -> None:
    borg_store.password.chmod(mode)
    assert f"has mode {mode:04o}: run `chmod 600" in refusal(borg_store, *command)


def test_password_file_of_somebody_else(borg_store: Store) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(borg_store.password, 12345, -1)
    assert "belongs to uid 12345, not to the caller" in refusal(borg_store, "list")


def test_password_file_that_is_a_link(borg_store: Store) -> None:
    real = borg_store.password.with_name("real")
    borg_store.password.rename(real)
    borg_store.password.symlink_to(real)
    assert "is not a regular file" in refusal(borg_store, "list")


def test_password_file_that_is_empty(borg_store: Store) -> None:
    borg_store.password.write_text("")
    assert "is empty" in refusal(borg_store, "list")


@pytest.mark.parametrize("command", [["list"], ["put"], ["get", "latest"]])
def test_without_a_repository(borg_store: Store, command: list[str]) -> None:
    shutil.rmtree(borg_store.repository)
    message = refusal(borg_store, *command, data=b"x" * 2_000_000)
    assert "there is no repository at" in message
    assert "run `dedup-store init --repository default`" in message


def test_engine_that_is_not_installed(borg_store: Store) -> None:
    command = [PAYLOAD / "dedup-store", "list"]
    variables = borg_store.environment | {"PATH": str(borg_store.folder)}
    result = subprocess.run(command, capture_output=True, env=variables, check=False)
    assert result.returncode == 1
    assert result.stderr == b"dedup-store: borg is not installed here (not found in PATH)\n"


def test_runs_through_a_link_and_from_anywhere(borg_store: Store) -> None:
    link = borg_store.folder / "dedup-store"
    link.symlink_to(PAYLOAD / "dedup-store")
    result = subprocess.run(
        [link, "list"], capture_output=True, env=borg_store.environment, cwd="/", check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["forget"], ["remove"], ["get"], ["put", "x"], ["list", "--no"]]
)
def test_wrong_command_lines(borg_store: Store, arguments: list[str]) -> None:
    result = borg_store.run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(b"usage: dedup-store")


def test_help_names_every_exit_code(borg_store: Store) -> None:
    text = borg_store.run("--help").stdout.decode()
    for code in (0, 1, 2, 3, 4, 5, 130, 141, 143):
        assert f"\n  {code} " in text
    tuning = ("compression", "chunks", "pack_size")
    for key in ("engine", "location", "device", "password_file", "lock_wait", *tuning):
        assert f"\n  {key} " in text


def test_versions(tmp_path: Path) -> None:
    """Told without a configuration, and when engines are missing."""
    store = Store(tmp_path, "restic")
    told = json.loads(store.run("version", "--json").stdout)
    assert told["restic"].startswith("restic 0.")
    assert told["borg"].startswith("borg 1.")
    lines = store.run("version").stdout.decode().splitlines()
    assert lines == [told["dedup-store"], told["restic"], told["borg"]]
    assert store.run("--version").stdout.decode().splitlines() == lines[:1]
    done = subprocess.run(
        [PAYLOAD / "dedup-store", "version"],
        env=store.environment | {"PATH": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().splitlines()[1:] == ["restic: not found", "borg: not found"]
