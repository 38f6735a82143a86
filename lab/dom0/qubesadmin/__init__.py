# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of Qubes' client library that this project uses, for dom0.

Same names and behaviour as qubes-core-admin-client's `qubesadmin`, on the same wire protocol.
"""

from qubesadmin.app import QubesLocal as Qubes
from qubesadmin.base import DEFAULT

__all__ = ["DEFAULT", "Qubes"]
