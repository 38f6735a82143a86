# SPDX-License-Identifier: GPL-3.0-or-later
"""What each command does: a module a verb, with run(arguments, settings) -> exit status."""
