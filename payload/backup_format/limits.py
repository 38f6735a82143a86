# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of an archive. Both sides have the same, so that what is stored can be confirmed."""

MAX_MEMBERS = 200_000  # 20 TB of full chunks; dom0 keeps a row of each in memory
CHUNK_BYTES = 100 << 20  # payload of a full chunk: qubes/backup.py Backup.chunk_size
MAX_HEADER = 4096  # bytes of backup-header: qubesadmin/backup/restore.py HMAC_MAX_SIZE
MAX_XML = 16 << 20  # bytes of qubes.xml; a qube takes 3 to 5 kB of it
