# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands, one per file: each has run(arguments), which returns the exit code."""
