# SPDX-License-Identifier: GPL-3.0-or-later
"""Qubes' own code, from the checkouts in QUBES_SRC."""
