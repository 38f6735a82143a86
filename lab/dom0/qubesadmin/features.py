# SPDX-License-Identifier: GPL-3.0-or-later
"""Features and tags of a qube; qubesadmin/features.py and tags.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from qubesadmin.base import Value


class Features:
    """A qube's features: strings by name; False is stored as the empty string, True as 1."""

    NO_DEFAULT: ClassVar[object] = object()

    def __init__(self, vm: Value) -> None:
        """Take the qube."""
        self.vm = vm

    def _call(self, verb: str, name: str | None = None, payload: bytes | None = None) -> str:
        answer = self.vm.qubesd_call(None, f"admin.vm.feature.{verb}", name, payload)
        return str(answer.decode())

    def __getitem__(self, name: str) -> str:
        """Return a feature.

        Raises:
            KeyError: it isn't set.
        """
        return self._call("Get", name)

    def __setitem__(self, name: str, value: object) -> None:
        """Set a feature."""
        text = ("1" if value else "") if isinstance(value, bool) else str(value)
        self._call("Set", name, text.encode())

    def __delitem__(self, name: str) -> None:
        """Remove a feature.

        Raises:
            KeyError: it isn't set.
        """
        self._call("Remove", name)

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._call("List").splitlines())

    keys = __iter__

    def __contains__(self, name: object) -> bool:
        """Tell whether a feature is set."""
        return name in list(self)

    def items(self) -> Iterator[tuple[str, str]]:
        """Go through names and values."""
        for name in self:
            yield name, self[name]

    def get(self, name: str, default: Value = None) -> Value:
        """Return a feature, or `default`."""
        return self._or_default("Get", name, default)

    def check_with_template(self, name: str, default: Value = None) -> Value:
        """Return a feature of the qube or of its template, or `default`."""
        return self._or_default("CheckWithTemplate", name, default)

    def _or_default(self, verb: str, name: str, default: Value) -> Value:
        try:
            return self._call(verb, name)
        except KeyError:
            if default is self.NO_DEFAULT:
                raise
            return default


class Tags:
    """A qube's tags."""

    def __init__(self, vm: Value) -> None:
        """Take the qube."""
        self.vm = vm

    def _call(self, verb: str, tag: str | None = None) -> bytes:
        answer: bytes = self.vm.qubesd_call(None, f"admin.vm.tag.{verb}", tag)
        return answer

    def add(self, tag: str) -> None:
        """Add a tag."""
        self._call("Set", tag)

    def remove(self, tag: str) -> None:
        """Remove a tag.

        Raises:
            KeyError: it isn't there.
        """
        self._call("Remove", tag)

    def discard(self, tag: str) -> None:
        """Remove a tag if it is there."""
        try:
            self.remove(tag)
        except KeyError:
            return

    def update(self, *others: Iterable[str]) -> None:
        """Add tags."""
        for tags in others:
            for tag in tags:
                self.add(tag)

    def __iter__(self) -> Iterator[str]:
        """Go through the tags."""
        return iter(self._call("List").decode().splitlines())

    def __contains__(self, tag: str) -> bool:
        """Tell whether the qube has a tag."""
        return self._call("Get", tag) == b"1"
