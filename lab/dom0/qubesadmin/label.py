# SPDX-License-Identifier: GPL-3.0-or-later
"""Labels: the colours of qubes; qubesadmin/label.py."""

from __future__ import annotations

from qubesadmin.base import Value


class Label:
    """A label, by its name."""

    def __init__(self, app: Value, name: str) -> None:
        """Take the app and the name."""
        self.app, self.name = app, name

    @property
    def color(self) -> str:
        """Its colour, as 0xRRGGBB."""
        return str(self.app.qubesd_call("dom0", "admin.label.Get", self.name).decode())

    @property
    def index(self) -> int:
        """Its number."""
        return int(self.app.qubesd_call("dom0", "admin.label.Index", self.name))

    @property
    def icon(self) -> str:
        """The name of its icon."""
        return f"appvm-{self.name}"

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def __eq__(self, other: object) -> bool:
        """Compare names."""
        return self.name == other.name if isinstance(other, Label) else NotImplemented

    def __hash__(self) -> int:
        """Hash the name."""
        return hash(self.name)
