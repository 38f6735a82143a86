# SPDX-License-Identifier: GPL-3.0-or-later
"""A storage qube, and hostile clients of it."""
