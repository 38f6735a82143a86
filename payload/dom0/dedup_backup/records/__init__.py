# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's own records of backups, and what follows from them alone."""
