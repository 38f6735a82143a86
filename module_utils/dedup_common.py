# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts that all modules share: an error class, and access to dom0's qubesadmin library."""

from __future__ import annotations

import importlib
from typing import Any, TypeAlias

# dom0's library has no type stubs: qubes-core-admin-client qubesadmin/vm/__init__.py QubesVM.
Qube: TypeAlias = Any

DISPLAY_LIMIT = 500


class ProvisionError(Exception):
    """An error for the user, the module's failure message: what is wrong, where, what to do."""


class Qubes:
    """dom0's qubesadmin library.

    Attributes:
        app: `qubesadmin.Qubes()`.
        default: the value that resets a property.
        errors: what calls into the library raise; OSError when qubesd can't be reached.
    """

    def __init__(self) -> None:
        """Load the library; it connects to qubesd at each call.

        Raises:
            ProvisionError: the library is missing, so this is not dom0.
        """
        try:
            library = importlib.import_module("qubesadmin")
            exceptions = importlib.import_module("qubesadmin.exc")
        except ImportError as error:
            raise ProvisionError(
                f"Python can't import qubesadmin ({error}): this module works in dom0 only, "
                "on a host with ansible_connection=local"
            ) from error
        self.app = library.Qubes()
        self.default = library.DEFAULT
        self.errors: tuple[type[Exception], ...] = (exceptions.QubesException, OSError)
        self._silent: tuple[type[Exception], ...] = (
            exceptions.QubesDaemonCommunicationError,
            OSError,
        )

    def names(self) -> set[str]:
        """Return the names of all qubes, dom0's among them."""
        return {str(qube) for qube in self.app.domains}

    def find(self, name: str) -> Qube | None:
        """Return the qube called `name`, or None."""
        return self.app.domains.get(name)

    def error_text(self, error: BaseException) -> str:
        """Return one of `errors` in one bounded line, with advice when qubesd didn't answer."""
        hint = "; look at `systemctl status qubesd` and `journalctl -u qubesd -e`"
        return error_text(error) + (hint if isinstance(error, self._silent) else "")


def error_text(error: BaseException | str) -> str:
    """Return an error's text in one bounded line: qubesd's errors can quote text of a qube."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:DISPLAY_LIMIT]
