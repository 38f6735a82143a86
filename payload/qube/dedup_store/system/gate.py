# SPDX-License-Identifier: GPL-3.0-or-later
"""The input of a process that is started before its data are there."""

import os
import socket
from typing import IO


class Gate:
    """An input whose end we must declare.

    The process holds our end of the socket too. So it doesn't see the end of its input when we are
    killed, as with a pipe, and never takes a part of the data for all of it.

    Attributes:
        fd: our end, which the process must inherit.
        stdin: the process's end; to be closed when it has started.
    """

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self.fd = self._ours.fileno()
        self.stdin: IO[bytes] = os.fdopen(theirs.detach(), "rb", buffering=0)

    def end(self) -> None:
        """Declare the end of the data.

        Raises:
            OSError: the process has gone.
        """
        self._ours.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close our end, and declare nothing."""
        self._ours.close()
