# SPDX-License-Identifier: GPL-3.0-or-later
"""The opening of a repository: password, device, folder, lock, engine.

The only module that knows all engines.
"""

from dataclasses import dataclass
from enum import Enum, auto

from dedup_store.config import Config
from dedup_store.engines import folder
from dedup_store.engines.base import Engine, Session
from dedup_store.engines.borg.repository import Borg
from dedup_store.engines.directory.repository import Directory
from dedup_store.engines.restic.repository import Restic
from dedup_store.errors import UsageError
from dedup_store.repository import command_lock, device, known_repositories, password, reserve
from dedup_store.repository.command_lock import Lock


class Purpose(Enum):
    """The purpose for which a command opens a repository."""

    MAKE = auto()  # there may be none yet; the caller has looked
    READ = auto()
    STORE = auto()
    REMOVE = auto()  # nothing else may use the repository meanwhile
    ACCEPT = auto()  # likewise, but nothing is removed from it


@dataclass(frozen=True)
class Opened:
    """A repository that a command can use.

    Attributes:
        engine: gives access to it.
        lock: is held until the process and the engine's have ended.
    """

    engine: Engine
    lock: Lock


def open_repository(config: Config, purpose: Purpose) -> Opened:
    """Open a repository; wait for other commands in the way.

    Raises:
        UsageError: there is none, or this qube isn't prepared for it.
        StoreError: it is gone, another one than before, or can't be used for the purpose.
    """
    if purpose is not Purpose.MAKE:
        password.require(config)
        device.require(config)
        _require_folder(config)
    if purpose in (Purpose.STORE, Purpose.REMOVE):
        device.require_writable(config)
    held = command_lock.take(config, exclusive=purpose in (Purpose.REMOVE, Purpose.ACCEPT))
    known_id = known_repositories.only_id(config) if purpose is Purpose.STORE else ""
    engine = _engine(config, Session(held.fd, removes=purpose is Purpose.REMOVE, known_id=known_id))
    if purpose is Purpose.READ:
        known_repositories.expect(config, engine, to_write=False)
    elif purpose in (Purpose.STORE, Purpose.REMOVE):
        known_repositories.expect(config, engine, to_write=True)
    if purpose is Purpose.STORE:
        room = reserve.Reserve(config)
        room.keep()
        room.warn_if_narrow()
        held.begin_put(engine.unlock, has_locks=folder.has_restic_locks(config))
    return Opened(engine, held)


def _engine(config: Config, session: Session) -> Engine:
    if config.engine == "directory":
        return Directory(config)
    return Restic(config, session) if config.engine == "restic" else Borg(config, session)


def _require_folder(config: Config) -> None:
    """Refuse to go on without a repository of the configured engine.

    Raises:
        UsageError: when there was never one.
        StoreError: when it is gone.
    """
    if not folder.check(config):
        if record := known_repositories.read(config):
            raise known_repositories.gone(config, record)
        raise UsageError(
            f"there is no repository at {config.location}:"
            f" run `dedup-store init --repository {config.name}`"
        )
