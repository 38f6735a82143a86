# SPDX-License-Identifier: GPL-3.0-or-later
"""The shim and shimctl in a root folder of their own."""
