# SPDX-License-Identifier: GPL-3.0-or-later
"""What restic and borg need from a session: base.py has the interface, sessions.py the choice."""
