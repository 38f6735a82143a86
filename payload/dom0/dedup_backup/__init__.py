# SPDX-License-Identifier: GPL-3.0-or-later
"""qubes-dedup-backup: dom0's verification of what a store in a backup qube holds and returns.

Nothing that comes from the qube is trusted: it is read with a limit for every line, member, count
and pause, compared with the ledger that the shim wrote in dom0, or checked under the passphrase by
the shim's own code. Memory is bounded by the largest member (100 MiB, in a file without a name)
and by what the ledger and the list need, about 200 bytes for each member.

Each of these imports only what follows it: cli, actions/, examination and context, reading/ (what
the store gives), records/ (what dom0 keeps), calls/ (qubesd and the qubes), settings, errors.
"""

VERSION = "0.1.0"
