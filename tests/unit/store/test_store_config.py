# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration, password file, init: what is refused, and with which words."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from store_profile import PAYLOAD, Store


@pytest.fixture
def profile(tmp_path: Path) -> Store:
    """A profile without a repository."""
    store = Store(tmp_path, "borg")
    store.configure()
    return store


def refusal(store: Store, *arguments: str, data: bytes = b"") -> str:
    """Run a command that must end with exit code 2; give its message."""
    result = store.run(*arguments, data=data)
    assert result.returncode == 2, result
    assert result.stdout == b""
    text = result.stderr.decode()
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'engine' must be one of: restic, borg"),
        ('engine = "tar"', "'engine' must be one of: restic, borg"),
        ("engine = 3", "'engine' must be a string"),
        ('engine = "borg"\nchunker = "x"', "unknown key 'chunker'"),
        ('engine = "borg"\n"\\u001b[2J" = 1', "unknown key '[2J'"),
        ('engine = "borg"\nlock_wait = "x"', "'lock_wait' must be a whole number"),
        ('engine = "borg"\nlock_wait = true', "'lock_wait' must be a whole number"),
        ('engine = "borg"\nlock_wait = -1', "'lock_wait' must be between"),
        ('engine = "borg"\nrepository = "relative/path"', "'repository' must be an absolute path"),
        ('engine = "borg"\nrepository = "--help"', "'repository' must be an absolute path"),
        ('engine = "borg"\nrepository = "/a::b"', "'repository' has a control character or '::'"),
        ('engine = "borg"\nrepository = "/a\\nb"', "'repository' has a control character or '::'"),
        ('engine = "borg"\npassword_file = "p"', "'password_file' must be an absolute path"),
        ("engine = ", "is not valid TOML"),
        ("#" * 70_000, "is larger than"),
    ],
)
def test_configuration_errors(profile: Store, text: str, reason: str) -> None:
    profile.config.write_text(text)
    message = refusal(profile, "list")
    assert reason in message
    assert "default.toml" in message


def test_configuration_that_is_not_text(profile: Store) -> None:
    profile.config.write_bytes(b"\xff\xfe")
    assert "is not valid TOML" in refusal(profile, "list")


def test_configuration_that_is_absent(profile: Store) -> None:
    message = refusal(profile, "list", "--profile", "other")
    assert "other.toml does not exist" in message


@pytest.mark.parametrize(
    "name", ["../default", "", "a/b", ".hidden", "-x", "a" * 65, "a\x1b[2J", "ä"]
)
def test_profile_names(profile: Store, name: str) -> None:
    message = refusal(profile, "list", f"--profile={name}")
    assert "is no profile name" in message
    assert "\x1b" not in message


def test_other_profile_of_the_same_folder(profile: Store) -> None:
    shutil.copy(profile.config, profile.config.with_name("second-1.toml"))
    assert profile.run("init", "--profile", "second-1").returncode == 0
    assert profile.config.with_name("second-1.password").exists()


def test_json_has_the_error_too(profile: Store) -> None:
    result = profile.run("list", "--json", "--profile", "other")
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


def test_lost_password_file_is_not_made_anew(borg_store: Store) -> None:
    borg_store.password.unlink()
    assert "does not exist" in refusal(borg_store, "init")
    assert not borg_store.password.exists()


@pytest.mark.parametrize("command", [["list"], ["put"], ["get", "latest"]])
def test_without_a_repository(borg_store: Store, command: list[str]) -> None:
    shutil.rmtree(borg_store.repository)
    message = refusal(borg_store, *command, data=b"x" * 2_000_000)
    assert "there is no repository at" in message
    assert "run `dedup-store init --profile default`" in message


def test_init_makes_password_and_repository_once(profile: Store) -> None:
    first = profile.run("init", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == {
        "changed": True,
        "password_file_created": True,
        "engine": "borg",
        "repository": str(profile.repository),
        "password_file": str(profile.password),
    }
    password = profile.password.read_text()
    assert len(password.strip()) == 43
    assert profile.password.stat().st_mode & 0o7777 == 0o600
    assert b"repokey" in (profile.native("info", "--json") or b"")
    second = profile.run("init", "--json")
    assert second.returncode == 0, second.stderr
    report = json.loads(second.stdout)
    assert (report["changed"], report["password_file_created"]) == (False, False)
    assert profile.password.read_text() == password
    assert b"is already there" in profile.run("init").stdout


def test_init_uses_a_password_that_is_there(profile: Store) -> None:
    profile.password.write_text("chosen by the user\n")
    profile.password.chmod(0o400)
    assert profile.run("init").returncode == 0
    assert profile.password.read_text() == "chosen by the user\n"
    assert profile.runs() == []


def test_init_with_a_wrong_password(store: Store) -> None:
    store.password.chmod(0o600)
    store.password.write_text("wrong\n")
    result = store.run("init")
    assert result.returncode == 1
    assert b"passphrase" in result.stderr.lower() or b"password" in result.stderr.lower()
    assert store.password.read_text() == "wrong\n"


def test_init_on_the_other_engines_repository(store: Store) -> None:
    other = {"restic": "borg", "borg": "restic"}[store.engine]
    store.configure(engine=other)
    message = refusal(store, "init")
    assert f"is {store.engine}'s, but the profile says engine = '{other}'" in message
    assert "but the profile says" in refusal(store, "put")


def test_init_on_foreign_data(profile: Store) -> None:
    profile.repository.mkdir()
    (profile.repository / "photo.jpg").write_text("x")
    assert "holds neither restic's nor borg's data" in refusal(profile, "init")
    assert not profile.password.exists()


def test_init_where_the_password_cannot_be_written(profile: Store) -> None:
    profile.configure(password_file=str(profile.folder / "absent" / "p"))
    assert "can't be made: No such file" in refusal(profile, "init")
    assert not profile.repository.exists()


def test_init_in_an_empty_folder_below_new_ones(profile: Store) -> None:
    profile.configure(repository=str(profile.folder / "a" / "b" / "c"))
    assert profile.run("init").returncode == 0
    assert (profile.folder / "a" / "b" / "c" / "config").exists()


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


@pytest.mark.parametrize("arguments", [[], ["forget"], ["get"], ["put", "x"], ["list", "--no"]])
def test_wrong_command_lines(borg_store: Store, arguments: list[str]) -> None:
    result = borg_store.run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(b"usage: dedup-store")


def test_help_names_every_exit_code(borg_store: Store) -> None:
    text = borg_store.run("--help").stdout.decode()
    for code in (0, 1, 2, 3, 4, 5, 130, 141, 143):
        assert f"\n  {code} " in text
    for key in ("engine", "repository", "password_file", "lock_wait"):
        assert f"\n  {key} " in text
