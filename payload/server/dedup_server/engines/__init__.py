# SPDX-License-Identifier: GPL-3.0-or-later
"""The engines' parts in a session: base.py has the interface, sessions.py the choice."""
