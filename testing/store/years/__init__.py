# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories and records as three years of nightly backups leave them, made in minutes."""
