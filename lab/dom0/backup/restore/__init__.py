# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore a backup: the stand-in for qubes-core-admin-client qubesadmin/backup/restore.py.

Only archive format version 4 is read, and devices that were assigned to qubes aren't restored.
"""
