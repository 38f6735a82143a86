# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories of dedup-store, backups to put into them, and disks and machines that fail."""
