# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands, one a file: each has run(arguments), which returns the exit code."""
