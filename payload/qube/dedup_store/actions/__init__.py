# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands, one per file, each with run(arguments, settings) -> exit status."""
