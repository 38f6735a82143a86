# SPDX-License-Identifier: GPL-3.0-or-later
"""A dom0 with a backup qube, real backups, and what a hostile store makes of them."""
