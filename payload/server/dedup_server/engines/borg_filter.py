# SPDX-License-Identifier: GPL-3.0-or-later
"""A filter of `borg serve --append-only`: passes only what can't destroy what is there.

`borg serve --append-only` alone doesn't keep its promise (borg 1.2.9, borg/remote.py
RepositoryServer.open): for `open` with create=True it drops append-only, and after the error that
the repository exists already, `destroy` removes it. It also lets anyone break locks, replace
the repository's key, and write without a lock, with which two sessions can remove each other's
data. So each request is read here, and one that isn't needed to store, list and read ends the
session.

Messages: borg/remote.py RepositoryServer.serve: a map of `i` (number), `m` (method), `a`
(arguments by name); only the first, `negotiate`, may be the older list of four.
"""

from dedup_server.engines.msgpack_stream import Splitter, Value
from dedup_server.errors import RefusedError, clean

_READ = frozenset({b"__len__", b"get", b"list", b"load_key", b"scan"})
_NONCE = frozenset({b"get_free_nonce", b"commit_nonce_reservation"})
# `delete` only notes in a new segment that an object is gone: borg needs it for checkpoints
_WRITE = frozenset({b"commit", b"delete", b"put", b"rollback"})
_USUAL = _READ | _NONCE | _WRITE | {b"check"}
# what reads takes no lock when none can be written (`borg --bypass-lock`); `key export` never does
_UNLOCKED = _READ
# while a repository is made, borg doesn't append only: so nothing that removes is allowed then
_CREATING = (_READ | _NONCE | {b"commit", b"put", b"rollback", b"save_key"}) - {b"scan"}


class Filter:
    """One session of a client.

    Attributes:
        is_creating: whether the client makes the repository.
    """

    def __init__(self, name: str, *, may_create: bool) -> None:
        """Watch a session.

        Args:
            name: the repository's name, which the client must ask for.
            may_create: whether the repository may be made.
        """
        self._path = b"/./" + name.encode()
        self._may_create = may_create
        self._splitter = Splitter()
        self._is_first = True
        self._allowed: frozenset[bytes] = frozenset({b"negotiate", b"open"})
        self.is_creating = False

    def feed(self, data: bytes) -> bytes:
        """Take what the client sent.

        Returns:
            What may go on to the server: whole messages only.

        Raises:
            RefusedError: the session must end.
        """
        self._splitter.feed(data)
        passed = []
        while message := self._splitter.next():
            raw, value = message
            self._check(value)
            passed.append(raw)
        return b"".join(passed)

    def _check(self, value: Value) -> None:
        is_first, self._is_first = self._is_first, False
        if isinstance(value, list):
            if not is_first or len(value) != 4 or value[2] != b"negotiate":
                raise RefusedError("a message has a form that borg 1.2 doesn't use")
            return
        if not isinstance(value, dict):
            raise RefusedError("a message is not a request")
        method, arguments = value.get(b"m"), value.get(b"a")
        if value.keys() != {b"i", b"m", b"a"} or not isinstance(arguments, dict):
            raise RefusedError("a message is not a request")
        if not isinstance(method, bytes) or method not in self._allowed:
            name = clean(method.decode(errors="replace"), 40) if isinstance(method, bytes) else "?"
            raise RefusedError(f"borg's request '{name}' isn't allowed through this service")
        if method == b"open":
            self._open(arguments)
        elif method == b"check" and arguments.get(b"repair"):
            raise RefusedError("a repair isn't allowed through this service")

    def _open(self, arguments: dict[object, Value]) -> None:
        """Check the one `open` of a session."""
        if arguments.get(b"path") != self._path:
            raise RefusedError("another repository was asked for")
        is_locked = arguments.get(b"lock", True) is True
        if arguments.get(b"create"):
            if not self._may_create:
                raise RefusedError("the repository exists already")
            if not is_locked:
                raise RefusedError("a repository is made with a lock only")
            self.is_creating = True
        if self.is_creating:
            self._allowed = _CREATING
        else:
            self._allowed = _USUAL if is_locked else _UNLOCKED
