# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects with properties that qubesd keeps; qubesadmin/base.py PropertyHolder."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from typing import IO, Any, ClassVar, Generic, TypeAlias, TypeVar

from qubesadmin import exc

DEFAULT = object()

T = TypeVar("T")

# Whatever a property or an option can be; and the app, which knows every class here.
Value: TypeAlias = Any


def parse_response(data: bytes) -> bytes:
    """Return the content of qubesd's answer; PropertyHolder._parse_qubesd_response.

    Raises:
        QubesException: the one that qubesd answered with.
    """
    if not data:
        raise exc.QubesDaemonAccessError(
            "Got empty response from qubesd. See journalctl in dom0 for details."
        )
    if data[:2] == b"0\0":
        return data[2:]
    if data[:2] != b"2\0":
        raise exc.QubesDaemonCommunicationError("Invalid response format")
    _, name, _traceback, message, rest = data.split(b"\0", 4)
    args = [arg.decode() for arg in rest.split(b"\0")[:-1]]
    kind = getattr(exc, name.decode("ascii"), None)
    if kind is None and name.endswith(b"Error"):
        kind = getattr(builtins, name.decode("ascii"), None)
    raise (kind or exc.QubesException)(message.decode(), *args)


class PropertyHolder:
    """An object whose attributes are properties in qubesd, except those in `_local`."""

    _local: ClassVar[frozenset[str]] = frozenset({"app"})

    def __init__(self, app: Value, prefix: str, dest: str) -> None:
        """Take the app, the methods' prefix and the destination of calls."""
        self.app = app
        self._prefix = prefix
        self._method_dest = dest

    def qubesd_call(
        self,
        dest: str | None,
        method: str,
        arg: str | None = None,
        payload: bytes | None = None,
        payload_stream: IO[bytes] | None = None,
    ) -> bytes:
        """Call qubesd; see `QubesLocal.qubesd_call`."""
        answer: bytes = self.app.qubesd_call(
            dest or self._method_dest, method, arg, payload, payload_stream
        )
        return answer

    def property_list(self) -> list[str]:
        """Return the names of all properties."""
        return self._call("List").decode("ascii").splitlines()

    def property_help(self, name: str) -> str:
        """Return a property's description."""
        return self._call("Help", name).decode("ascii")

    def property_is_default(self, name: str) -> bool:
        """Tell whether a property has its default value."""
        return self._access(name, lambda: self._get(name))[0]

    def property_get_default(self, name: str) -> Value:
        """Return a property's default value.

        Raises:
            AttributeError: it has none.
        """
        answer = self._access(name, lambda: self._call("GetDefault", name))
        if not answer:
            raise AttributeError(f"{name} has no default")
        kind, value = answer.split(b" ", 1)
        return self._value(name, kind, value)

    def clone_properties(self, src: PropertyHolder, proplist: list[str] | None = None) -> None:
        """Copy properties; those that can't be read or written are left out."""
        for name in self.property_list() if proplist is None else proplist:
            try:
                setattr(self, name, getattr(src, name))
            except AttributeError:
                continue

    def __getattr__(self, name: str) -> Value:
        """Return a property's value.

        Raises:
            AttributeError: there is no such property, or it has no value.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        return self._access(name, lambda: self._get(name))[1]()

    def __setattr__(self, name: str, value: Value) -> None:
        """Set a property; DEFAULT resets it, None means none."""
        if name.startswith("_") or name in self._local:
            super().__setattr__(name, value)
        elif value is DEFAULT:
            self.__delattr__(name)
        else:
            text = "" if value is None else str(value)
            self._access(name, lambda: self._call("Set", name, text.encode()))

    def __delattr__(self, name: str) -> None:
        """Reset a property to its default."""
        self._access(name, lambda: self._call("Reset", name))

    def _call(self, verb: str, name: str | None = None, payload: bytes | None = None) -> bytes:
        return self.qubesd_call(self._method_dest, self._prefix + verb, name, payload)

    def _access(self, name: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except (exc.QubesDaemonAccessError, exc.QubesVMNotFoundError):
            raise exc.QubesPropertyAccessError(name) from None

    def _get(self, name: str) -> tuple[bool, Callable[[], Value]]:
        default, kind, value = self._call("Get", name).split(b" ", 2)
        return default == b"default=True", lambda: self._value(name, kind, value)

    def _value(self, name: str, kind: bytes, raw: bytes) -> Value:
        text = raw.decode()
        if kind == b"type=str":
            return text
        if kind in (b"type=bool", b"type=int"):
            if text == "":
                raise AttributeError(name)
            return text == "True" if kind == b"type=bool" else int(text)
        if kind == b"type=vm":
            return self.app.domains.get_blind(text) if text else None
        if kind == b"type=label":
            return self.app.labels.get_blind(text) if text else None
        raise exc.QubesDaemonCommunicationError("Received invalid value type")


class WrapperObjectsCollection(Generic[T]):
    """Named objects, such as labels; qubesadmin/base.py WrapperObjectsCollection."""

    def __init__(self, app: Value, list_method: str, kind: Callable[[Value, str], T]) -> None:
        """Take the app, the method that lists the names, and the objects' class."""
        self.app, self._list_method, self._kind = app, list_method, kind

    def keys(self) -> list[str]:
        """Return all names."""
        names: bytes = self.app.qubesd_call("dom0", self._list_method)
        return names.decode("ascii").splitlines()

    def get_blind(self, name: str) -> T:
        """Return an object without asking whether it exists."""
        return self._kind(self.app, name)

    def values(self) -> list[T]:
        """Return all objects."""
        return [self.get_blind(name) for name in self.keys()]

    def __getitem__(self, name: str) -> T:
        """Return an object.

        Raises:
            KeyError: there is none with this name.
        """
        if name not in self:
            raise KeyError(name)
        return self.get_blind(name)

    def __contains__(self, name: object) -> bool:
        """Tell whether an object exists."""
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        """Go through all names."""
        return iter(self.keys())
