# SPDX-License-Identifier: GPL-3.0-or-later
"""The project's Ansible modules, run as Ansible runs them, and policy to try them on."""
