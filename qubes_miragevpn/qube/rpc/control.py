# SPDX-License-Identifier: BSD-2-Clause
"""The control socket's server: a unix stream socket, a request and a reply for each connection.

Who may connect is the file's access list: root, and the group of the settings if it exists. The service need not be in
that group, and is not: whoever is in the group qubes may become root (Qubes' passwordless-root: polkit, sudo). Nobody
can hold it up: requests are bounded in length and time, replies in time, callers in number; whoever comes above that is
told so and closed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.errors import MirageError, SystemRefused
from qubes_miragevpn.qube.rpc.events import Listener
from qubes_miragevpn.qube.rpc.messages import (
    MAX_REQUEST,
    BadMessage,
    Request,
    parse_request,
    render_reply,
    with_payload,
)

REQUEST_TIME = 1.0  # seconds to send the request
PAYLOAD_TIME = 10.0  # seconds to send the bytes that follow it
MAX_PAYLOADS = 2  # callers who may send such bytes at a time: two MiB of memory
REPLY_TIME = 2.0  # seconds to take the reply
MAX_CALLERS = 16

Answer = Callable[[Request], Awaitable[Any]]
"""Carry a request out and return the result; raises `Refused`."""

_log = logging.getLogger("miragevpn.control")


async def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    writer.write(line)
    async with asyncio.timeout(REPLY_TIME):
        await writer.drain()


class Refused(MirageError):
    """The request cannot be granted; the text is what the caller is told."""


class ControlServer:
    """Serves until closed."""

    def __init__(self, path: Path, group: str, answer: Answer) -> None:
        self._path = path
        self._group = group
        self._answer = answer
        self._server: asyncio.AbstractServer | None = None
        self._callers: set[asyncio.Task[None]] = set()
        self._payloads = 0

    async def start(self) -> None:
        """Make the socket; one that a killed service left behind is replaced. Raises `SystemRefused`."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._prepare()
            before = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
            self._open_to_group()
            self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_REQUEST)
        except OSError as error:
            listener.close()
            what = f"cannot make the control socket {self._path}: {error.strerror or error}"
            raise SystemRefused(what, "is another service running, or the directory not writable?") from error

    def _prepare(self) -> None:
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise OSError(f"{self._path} exists and is not a socket")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(REQUEST_TIME)
                if probe.connect_ex(str(self._path)) == 0:
                    raise OSError("a service answers there already")
            self._path.unlink()

    def _open_to_group(self) -> None:
        try:
            group = grp.getgrnam(self._group).gr_gid
        except KeyError:
            return
        os.setxattr(self._path, "system.posix_acl_access", _access_list(group))

    async def close(self) -> None:
        """End: no further callers, present ones are cut off."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(OSError):
                self._path.unlink()
        for task in list(self._callers):
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._callers) >= MAX_CALLERS:
            writer.write(render_reply(error="too many callers"))
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._callers.add(task)
        task.add_done_callback(self._callers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reply = await self._reply(reader)
            if isinstance(reply, Listener):
                await self._stream(reader, writer, reply)
            else:
                await _send(writer, reply)
        except (OSError, TimeoutError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener: Listener) -> None:
        """Write a line for every change until the caller leaves, says anything, or does not take what it is told."""
        leaving = asyncio.ensure_future(reader.read(1))
        coming = asyncio.ensure_future(listener.next())
        try:
            while True:
                await asyncio.wait({leaving, coming}, return_when=asyncio.FIRST_COMPLETED)
                if leaving.done():
                    return
                value = coming.result()
                if value is None:
                    raise TimeoutError
                await _send(writer, render_reply(value))
                coming = asyncio.ensure_future(listener.next())
        except TimeoutError:
            _log.warning("a listener did not take what it was told: let go")
            raise
        finally:
            listener.close()
            leaving.cancel()
            coming.cancel()
            await asyncio.gather(leaving, coming, return_exceptions=True)

    @contextlib.contextmanager
    def _place_for_payload(self) -> Iterator[None]:
        if self._payloads >= MAX_PAYLOADS:
            raise Refused("too many callers send at once")
        self._payloads += 1
        try:
            yield
        finally:
            self._payloads -= 1

    async def _reply(self, reader: asyncio.StreamReader) -> bytes | Listener:
        try:
            async with asyncio.timeout(REQUEST_TIME):
                untrusted_line = await reader.readuntil(b"\n")
            request, size = parse_request(untrusted_line)
            if not size:
                result = await self._answer(request)
                return result if isinstance(result, Listener) else render_reply(result)
            with self._place_for_payload():
                async with asyncio.timeout(PAYLOAD_TIME):
                    request = with_payload(request, await reader.readexactly(size))
                return render_reply(await self._answer(request))
        except (asyncio.LimitOverrunError, BadMessage) as error:
            text = str(error) if isinstance(error, BadMessage) else "the request is too long"
            _log.warning("request refused: %s", text)
            return render_reply(error=text)
        except (TimeoutError, asyncio.IncompleteReadError):
            _log.warning("request refused: it did not come whole in time")
            return render_reply(error="no whole request in time")
        except Refused as error:
            _log.warning("request refused: %s", error)
            return render_reply(error=str(error))
        except Exception:
            _log.exception("a request failed by a bug")
            return render_reply(error="internal error")


def _access_list(group: int) -> bytes:
    """A POSIX access list: owner and `group` may, nobody else (linux/posix_acl_xattr.h: version 2; tag, rights, id)."""
    nobody, both = 0xFFFFFFFF, 6
    entries = ((0x01, both, nobody), (0x04, 0, nobody), (0x08, both, group), (0x10, both, nobody), (0x20, 0, nobody))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
