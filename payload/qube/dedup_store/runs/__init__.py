# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in a repository: stored, found, read, checked. Archive and engine meet here."""
