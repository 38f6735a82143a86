# SPDX-License-Identifier: GPL-3.0-or-later
"""A line between two network namespaces, with a delay and a rate, that counts what it carries.

It stands for `tc netem`, which not every kernel has (CONFIG_NET_SCH_NETEM): a program that moves
packets between two TUN devices (Linux Documentation/networking/tuntap.rst). The namespaces have no
names and no other device, and go with that program.
"""

import contextlib
import ctypes
import fcntl
import heapq
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

NEAR, FAR = "10.213.0.1", "10.213.0.2"
_SIDES = (NEAR, FAR)
_CLONE_NEWNET = 0x40000000  # unshare(2)
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_TUN_WITHOUT_HEADER = 0x1001  # IFF_TUN | IFF_NO_PI
_MTU = 1500
_MOST_WAITING = 1000  # packets; more are dropped, as by netem
_TCP, _SYN, _ACK = 6, 0x02, 0x10


@dataclass
class Traffic:
    """What went over the line.

    Attributes:
        connections: TCP connections that were asked for.
        turns: how often the near side sent data after it had received some.
        sent: bytes of TCP's data from the near side.
        received: bytes of TCP's data to it.
    """

    connections: int = 0
    turns: int = 0
    sent: int = 0
    received: int = 0


class Link:
    """A line that works until it is closed."""

    def __init__(self, milliseconds: float, megabits: float) -> None:
        """Start it.

        Args:
            milliseconds: a round trip takes, both ways together.
            megabits: each way takes in a second.
        """
        command = [sys.executable, "-m", __name__, str(milliseconds), str(megabits)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._near_fd = json.loads(self._line())

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the line has ended"
        return line

    def inside(self, address: str) -> tuple[str, ...]:
        """What a program is started with to be on one side, NEAR or FAR."""
        place = "ns/net" if address == FAR else f"fd/{self._near_fd}"
        return ("nsenter", f"--net=/proc/{self._process.pid}/{place}", "--")

    def counted(self) -> Traffic:
        """Give what went over the line since the last call."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return Traffic(**json.loads(self._line()))

    def close(self) -> None:
        """End it, and with it its namespaces."""
        self._process.communicate()


@contextlib.contextmanager
def link(milliseconds: float, megabits: float) -> Iterator[Link]:
    """Make a line, and end it."""
    made = Link(milliseconds, megabits)
    try:
        yield made
    finally:
        made.close()


def _side(own: str, other: str) -> int:
    """Make a namespace for this process, with a TUN device; give the device."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", b"line", _TUN_WITHOUT_HEADER))
    for arguments in (
        ["address", "add", own, "peer", other, "dev", "line"],
        ["link", "set", "dev", "line", "mtu", str(_MTU), "up"],
        ["link", "set", "dev", "lo", "up"],
    ):
        subprocess.run(["ip", *arguments], check=True)
    return tun


class _Relay:
    """Moves packets, each at its time."""

    def __init__(self, tuns: tuple[int, int], delay: float, rate: float) -> None:
        self._tuns = tuns
        self._delay = delay  # seconds
        self._rate = rate  # bytes in a second
        self._free_at = [0.0, 0.0]  # when what came from a side has been sent
        self._waiting: list[tuple[float, int, bytes]] = []
        self._last = 1  # the side that data came from
        self.traffic = Traffic()

    def run(self) -> None:
        """Move packets, and answer each line on stdin, until that ends."""
        while True:
            now = time.monotonic()
            while self._waiting and self._waiting[0][0] <= now:
                _, side, packet = heapq.heappop(self._waiting)
                with contextlib.suppress(OSError):
                    os.write(self._tuns[1 - side], packet)
            wait = self._waiting[0][0] - now if self._waiting else None
            ready = select.select([0, *self._tuns], [], [], wait)[0]
            if 0 in ready and not self._answer():
                return
            for side, tun in enumerate(self._tuns):
                if tun in ready:
                    self._take(side)

    def _answer(self) -> bool:
        if not os.read(0, 1):
            return False
        sys.stdout.write(json.dumps(asdict(self.traffic)) + "\n")
        sys.stdout.flush()
        self.traffic = Traffic()
        return True

    def _take(self, side: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(self._waiting) < _MOST_WAITING:
                packet = os.read(self._tuns[side], 2 * _MTU)
                self._count(side, packet)
                start = max(time.monotonic(), self._free_at[side])
                self._free_at[side] = start + len(packet) / self._rate
                due = self._free_at[side] + self._delay
                heapq.heappush(self._waiting, (due, side, packet))

    def _count(self, side: int, packet: bytes) -> None:
        """Count what a packet carries: RFC 791, section 3.1, and RFC 9293, section 3.1."""
        if packet[0] >> 4 != 4 or packet[9] != _TCP:
            return
        head = (packet[0] & 0x0F) * 4
        flags, length = packet[head + 13], int.from_bytes(packet[2:4])
        data = length - head - (packet[head + 12] >> 4) * 4
        self.traffic.connections += side == 0 and flags & (_SYN | _ACK) == _SYN
        if not data:
            return
        if side == 0:
            self.traffic.sent += data
            self.traffic.turns += self._last == 1
        else:
            self.traffic.received += data
        self._last = side


def _main() -> None:
    near = _side(NEAR, FAR)
    near_namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    far = _side(FAR, NEAR)
    sys.stdout.write(f"{near_namespace}\n")
    sys.stdout.flush()
    milliseconds, megabits = map(float, sys.argv[1:])
    _Relay((near, far), milliseconds / 2000, megabits * 125_000).run()


if __name__ == "__main__":
    _main()
