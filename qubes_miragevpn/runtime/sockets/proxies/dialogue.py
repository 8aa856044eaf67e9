# SPDX-License-Identifier: BSD-2-Clause
"""Talking to a proxy over a connected socket until the way to the server is open.

The messages are `proxies.http`'s and `proxies.socks`'s; here are the sockets. Nothing here has a time limit of its own:
whoever calls sets one for the whole attempt, so that a proxy that answers byte by byte cannot stretch it.
"""

from __future__ import annotations

import asyncio
import socket

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.runtime.sockets.proxies import http, socks

READ = 4096


async def ask_socks(sock: socket.socket, talk: socks.Talk) -> socks.Bound:
    """Carry `talk` out on `sock`; return what the proxy granted. Raises `PeerError` and OSError."""
    loop = asyncio.get_running_loop()
    step = next(talk)
    while True:
        if isinstance(step, socks.Say):
            await loop.sock_sendall(sock, step.data)
            heard = b""
        else:
            heard = await _exactly(sock, step.size)
        try:
            step = talk.send(heard)
        except StopIteration as end:
            bound: socks.Bound = end.value
            return bound


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    heard = b""
    while len(heard) < size:
        piece = await loop.sock_recv(sock, size - len(heard))
        if not piece:
            raise PeerError("the proxy closed the connection")
        heard += piece
    return heard


async def ask_http(sock: socket.socket, request: bytes) -> http.Answer:
    """Send `request` on `sock`; return the head of the answer. Raises `PeerError` and OSError."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, request)
    reader = http.HeadReader()
    while True:
        piece = await loop.sock_recv(sock, READ)
        if not piece:
            raise PeerError("the proxy closed the connection")
        answer = reader.feed(piece)
        if answer is not None:
            return answer
