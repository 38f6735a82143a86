# SPDX-License-Identifier: GPL-3.0-or-later
"""What was changed in an append-only borg repository, and how to undo it.

borg writes to new segment files only, and at the end of each transaction notes its number, that of
its last segment, in `transactions` (borg/repository.py Repository.write_index). So the repository
is as it was after a transaction when all segments behind it, and the index files, are taken away:
borg's documentation, "Append-only mode".
"""

import os
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from dedup_server.engines import borg_records
from dedup_server.errors import StorageError, UsageError
from dedup_server.folder.files import replace_file, sync_folder
from dedup_server.folder.repository_folder import TIME_FORMAT, RepositoryFolder

_LINE = re.compile(r"transaction (\d{1,18}), UTC time (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?")
_SINCE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?")
_INDEX = re.compile(r"(index|hints|integrity)\.\d+(\.tmp)?")
# borg/repository.py LoggedIO.header_fmt and constants.py TAG_*: CRC, size, tag
_HEADER = struct.Struct("<IIB")
_MAGIC = b"BORG_SEG"
_PUT, _DELETE = 0, 1


@dataclass
class Transaction:
    """What one session changed.

    Attributes:
        number: its last segment.
        time: when it ended, UTC, ISO 8601.
        puts: objects that it wrote; a run's data, or new versions of something.
        deletes: objects that it removed.
        size: bytes of its segments.
    """

    number: int
    time: str
    puts: int = 0
    deletes: int = 0
    size: int = 0


def transactions(path: Path) -> list[Transaction]:
    """Read a borg repository's list of transactions, oldest first.

    Raises:
        StorageError: it is malformed.
    """
    try:
        lines = (path / "transactions").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        raise StorageError(f"{path / 'transactions'} is malformed") from None
    found = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match:
            found.append(Transaction(int(match[1]), match[2] + "Z"))
    return found


def changes(path: Path, since: str | None) -> list[Transaction]:
    """List what each transaction did.

    Args:
        path: a borg repository.
        since: date, or date and time, UTC; None for all.

    Raises:
        UsageError: `since` is not a date.
    """
    if since is not None and not _SINCE.fullmatch(since):
        raise UsageError("--since takes a date as 2026-11-24, or a time as 2026-11-24T20:15 (UTC)")
    files = segments(path)
    found = []
    before = -1
    for transaction in transactions(path):
        if since is None or transaction.time >= since:
            for number in range(before + 1, transaction.number + 1):
                if number in files:
                    _count(files[number], transaction)
            found.append(transaction)
        before = transaction.number
    return found


def _count(path: Path, transaction: Transaction) -> None:
    """Add up what is in a segment; only the heads of its entries are read."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        transaction.size += size
        if file.read(len(_MAGIC)) != _MAGIC:
            return
        position = len(_MAGIC)
        while position + _HEADER.size <= size:
            file.seek(position)
            _, length, tag = _HEADER.unpack(file.read(_HEADER.size))
            if length < _HEADER.size:
                return
            transaction.puts += tag == _PUT
            transaction.deletes += tag == _DELETE
            position += length


def require_repository(folder: RepositoryFolder) -> None:
    """Refuse a place without a borg repository.

    Raises:
        UsageError: there is none.
    """
    if not (folder.path / "config").is_file():
        raise UsageError(f"there is no repository at {folder.path}")


def rollback(folder: RepositoryFolder, number: int) -> Path:
    """Bring a repository back to where it was after a transaction; nobody else may use it.

    What came later is moved, not removed. This can be repeated after it was interrupted.

    Args:
        folder: of the repository.
        number: of a transaction.

    Returns:
        The folder that has what came later.

    Raises:
        UsageError: there is no such transaction.
        StorageError: it can't be reached any more.
    """
    path, name = folder.path, folder.repository.name
    known = transactions(path)
    wanted = [item for item in known if item.number == number]
    if not wanted:
        raise UsageError(f"there is no transaction {number}: see `changes {name}`")
    files = segments(path)
    if number < borg_records.floor(folder) or number not in files:
        raise StorageError(
            f"transaction {number} is older than the last maintenance: its data may be gone;"
            f" `changes {name}` lists what is held back from before maintenance"
        )
    now = time.strftime(TIME_FORMAT, time.gmtime())
    away = folder.state_folder / f"rolled-back.{now}Z"
    away.mkdir(mode=0o700, exist_ok=True)
    _move(path, files, number, away)
    _restore_config(folder, wanted[-1])
    log = path / "transactions"
    (away / "transactions").write_bytes(log.read_bytes())
    lines = [
        f"transaction {item.number}, UTC time {item.time[:-1]}.000000\n"
        for item in known
        if item.number <= number
    ]
    replace_file(log, "".join(lines).encode())
    return away


def segments(path: Path) -> dict[int, Path]:
    """Find a repository's segment files (borg/repository.py LoggedIO.segment_filename)."""
    found = {}
    for file in (path / "data").glob("*/*"):
        if file.name.isdecimal() and file.parent.name.isdecimal():
            found[int(file.name)] = file
    return found


def _move(path: Path, files: dict[int, Path], number: int, away: Path) -> None:
    """Take the index and all segments behind a transaction away, the newest first."""
    for file in path.iterdir():
        if _INDEX.fullmatch(file.name):
            file.rename(away / file.name)
    sync_folder(path)
    for segment in sorted((item for item in files if item > number), reverse=True):
        files[segment].rename(away / str(segment))
        sync_folder(files[segment].parent)
    sync_folder(away)


def _restore_config(folder: RepositoryFolder, transaction: Transaction) -> None:
    """Put the `config` back that was there at a transaction; the one of now is among the copies."""
    at = transaction.time.translate({ord(char): None for char in "-:Z"})
    known = borg_records.copies(folder)
    fitting = [path for taken, path in known if taken <= at] or [known[0][1]]
    config = folder.path / "config"
    data = fitting[-1].read_bytes()
    if data != config.read_bytes():
        replace_file(config, data)
