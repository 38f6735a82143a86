# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's place for Tags; see features.py."""

from qubesadmin.features import Tags

__all__ = ["Tags"]
