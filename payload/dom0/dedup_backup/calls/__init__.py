# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked outside dom0's files: qubesd, the backup qube, the storage qube."""
