# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls out of dom0's files: to qubesd, the backup qube, the storage qube."""
