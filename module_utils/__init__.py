# SPDX-License-Identifier: GPL-3.0-or-later
"""Code that this project's Ansible modules share; Ansible ships it along with them."""
