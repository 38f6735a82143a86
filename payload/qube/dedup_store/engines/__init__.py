# SPDX-License-Identifier: GPL-3.0-or-later
"""The engines that keep objects: base.py is their interface, each other folder one engine."""
