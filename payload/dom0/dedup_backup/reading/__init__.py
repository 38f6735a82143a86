# SPDX-License-Identifier: GPL-3.0-or-later
"""Strict readers of what a store returns, and the comparison with what must be there."""
