# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository in a folder of this qube: its files, its lock, and what lies beside it."""
