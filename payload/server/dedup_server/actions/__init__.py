# SPDX-License-Identifier: GPL-3.0-or-later
"""One command a file: `run(arguments, repository)` returns the exit status."""
