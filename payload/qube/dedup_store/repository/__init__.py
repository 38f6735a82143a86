# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of a profile: found, opened, locked, known again."""
