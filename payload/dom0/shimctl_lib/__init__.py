# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl's parts: look finds out what is in place, plan decides, system/ makes the changes."""
