# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's host side: a stand-in Qubes OS in podman containers."""
