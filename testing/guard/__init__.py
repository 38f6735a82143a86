# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0 of the guard's molecule scenarios."""
