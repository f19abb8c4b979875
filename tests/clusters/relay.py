"""Keeps network packets back for some milliseconds: python relay.py INNER OUTER, run by hosts.py.

For kernels without `tc netem`. It makes two TAP interfaces of these names and passes on the frames between them, in
their order. Each line of its standard input is a new delay in milliseconds, answered by an empty line; it ends, and the
interfaces with it, when that input does. It must not do anything else to a frame: it never changes one, and drops one
only where the other side cannot take any.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def open_tap(name: str) -> int:
    """Make the interface; return a descriptor from which to read the frames that are sent to it."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def relay(inner: int, outer: int, orders: int) -> None:
    """Pass frames on until the input ends."""
    delay = 0.0
    waiting: collections.deque[tuple[float, int, bytes]] = collections.deque()
    while True:
        rest = None if not waiting else max(0.0, waiting[0][0] - time.monotonic())
        readable = select.select([inner, outer, orders], [], [], rest)[0]  # not poll: that has only milliseconds
        if orders in readable:
            lines = os.read(orders, 4096).split()
            if not lines:
                return
            delay = float(lines[-1]) / 1000
            os.write(sys.stdout.fileno(), b"\n")
        for tap, other in ((inner, outer), (outer, inner)):
            if tap in readable:
                for _ in range(64):  # then it is the other's turn
                    try:
                        frame = os.read(tap, 65536)
                    except BlockingIOError:
                        break
                    waiting.append((time.monotonic() + delay, other, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, other, frame = waiting.popleft()
            with contextlib.suppress(OSError):  # not up yet, or its queue is full
                os.write(other, frame)


if __name__ == "__main__":
    relay(open_tap(sys.argv[1]), open_tap(sys.argv[2]), sys.stdin.fileno())
