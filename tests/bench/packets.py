# SPDX-License-Identifier: BSD-2-Clause
"""Sends small datagrams as fast as it can: `python -m tests.bench.packets ADDRESS SECONDS`.

Many in one system call (sendmmsg), each a datagram of its own, so that the sender leaves the processor to the tunnel.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time

PORT = 9
SIZE = 200
BATCH = 64


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr (socket.h)."""

    _fields_ = (
        ("name", ctypes.c_void_p), ("namelen", ctypes.c_uint),
        ("iov", ctypes.POINTER(_Iovec)), ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_int),
    )  # fmt: skip


class _Message(ctypes.Structure):
    """struct mmsghdr: a header, padding and all, and the number of bytes sent."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


def flood(address: str, seconds: float) -> None:
    """Send for `seconds`."""
    payload = ctypes.create_string_buffer(SIZE)
    piece = _Iovec(ctypes.addressof(payload), SIZE)
    messages = (_Message * BATCH)(*(_Message(_Header(iov=ctypes.pointer(piece), iovlen=1)) for _ in range(BATCH)))
    libc = ctypes.CDLL(None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, PORT))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if libc.sendmmsg(sock.fileno(), messages, BATCH, 0) < 0:
                os.sched_yield()  # the queue is full, or nobody listens and ICMP said so


if __name__ == "__main__":
    flood(sys.argv[1], float(sys.argv[2]))
