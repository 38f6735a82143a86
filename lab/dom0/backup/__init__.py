# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's stand-in for what backs up and restores in Qubes' packages `qubes` and `qubesadmin`.

It writes and reads backup archive format version 4 as upstream does, with whatever `scrypt` is on
PATH, and keeps upstream's quirks where a program around it could notice them; each module names the
upstream file and function that it stands in for. Installed in the lab's dom0 as package `qubes`.
"""
