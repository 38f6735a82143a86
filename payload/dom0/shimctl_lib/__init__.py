# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of shimctl: inspection finds what is in place, plan decides, system/ changes."""
