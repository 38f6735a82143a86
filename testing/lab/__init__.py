# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab without containers: qubes are processes and folders."""
