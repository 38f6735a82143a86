# SPDX-License-Identifier: GPL-3.0-or-later
"""What dom0's two programs share."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

import pytest
from dom0_common.files import creating, replace
from dom0_common.locks import lock
from dom0_common.text import clean


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("as it is", "as it is"),
        (" two\r\n\tlines \n", "two lines"),
        ("\x1b[2Ja\x07b\x9bc\u202ed", "[2Ja b c d"),
        (b"bytes \xff\xc3\xa4 end", "bytes end"),
        ("", ""),
        ("x" * 40, "x" * 40),
        ("begin " + "x" * 40, "..." + "x" * 37),
        ("\x00" * 1000 + "end", "...end"),
        ("x" * 10**6 + " the cause", "..." + "x" * 27 + " the cause"),
    ],
)
def test_foreign_text_is_one_line_of_ascii_and_keeps_its_end(
    text: str | bytes, cleaned: str
) -> None:
    assert clean(text, 40) == cleaned


def test_a_file_is_replaced_whole_and_is_for_root_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with path.open("rb") as reader:
        replace(path, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "something").touch()
    with pytest.raises(OSError, match="directory"):
        replace(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    new = tmp_path / "new"
    with pytest.raises(ValueError, match="full"), creating(new) as file:
        file.write(b"half")
        raise ValueError("full")
    assert not new.exists()


def test_a_file_that_is_there_is_not_created_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError), creating(path):
        pass
    assert path.read_bytes() == b"old"


def test_a_lock_is_waited_for_as_long_as_is_said(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
        assert lock(one.fileno())
        assert not lock(other.fileno())
        began = time.monotonic()
        assert not lock(other.fileno(), seconds=0.2)
        assert time.monotonic() - began >= 0.2
        timer = threading.Timer(0.2, fcntl.flock, (one.fileno(), fcntl.LOCK_UN))
        timer.start()
        assert lock(other.fileno(), seconds=60)
        timer.join()
