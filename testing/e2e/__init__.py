# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab of the end-to-end tests, and what it was provisioned with."""
