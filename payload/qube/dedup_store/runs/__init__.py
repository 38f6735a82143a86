# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in a repository: stored, found, read, checked. Here archive and engine meet."""
