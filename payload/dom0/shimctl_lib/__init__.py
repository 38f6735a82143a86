# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl's parts: inspection finds out what is in place, plan decides, system/ changes."""
