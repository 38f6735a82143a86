# SPDX-License-Identifier: GPL-3.0-or-later
"""dedup-server: append-only access of the backup qube to repositories, over qrexec.

It runs the engine's own server (`rclone serve restic`, `borg serve`) on stdin and stdout, with an
environment of its own, for a repository that is configured here. All that comes in is from a qube
that may be hostile; nothing of it chooses a program, an option or a path.
"""

VERSION = "0.1.0"
