# SPDX-License-Identifier: GPL-3.0-or-later
"""What shimctl finds out and changes in the system, without knowing what it is for."""
