# SPDX-License-Identifier: GPL-3.0-or-later
"""What shimctl and qubes-dedup-backup share: paths, foreign text, files on disk, locks."""
