# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of Qubes' archive format that dom0 and the backup qube must agree on.

The archive is version 4 of qubes-core-admin's qubes/backup.py. This package is laid down on both
sides, beside dedup_backup in dom0 and beside dedup_store in the backup qube. It opens no files and
trusts no input.

Each side has a reader of tar of its own, since the threat differs. dedup_store's accepts whatever
tar may write, and keeps the rest as it came. dom0's accepts only what Qubes' tar writes.
"""
