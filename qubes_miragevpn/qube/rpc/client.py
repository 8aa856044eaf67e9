# SPDX-License-Identifier: BSD-2-Clause
"""Asking the service: a blocking call for the short-lived commands and qrexec services.

Imports nothing heavy: a status has to come at once.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.qube.rpc.messages import MAX_REPLY, BadMessage, Request, parse_reply, render_request

TIMEOUT = 5.0  # seconds for the whole exchange
LONG_TIMEOUT = 20.0  # the same where a profile is handed in, which is checked before the answer, or a tunnel ends


class NoService(MirageError):
    """The service does not answer."""


class ServiceRefused(MirageError):
    """The service answered no; the text is its own."""


def call(path: Path, request: Request) -> Any:
    """Return the result of `request`; raises `NoService`, `ServiceRefused`."""
    with _asked(path, request) as link:
        return _result(_line(link, time.monotonic() + _patience(request)))


def listen(path: Path, request: Request, output: int) -> Iterator[Any]:
    """Each result of a `request` that has many, for as long as somebody reads our `output`; raises as `call` does."""
    with _asked(path, request) as link:
        watch = select.poll()
        watch.register(link, select.POLLIN)
        watch.register(output, 0)  # tells by itself when its reader is gone
        while True:
            if any(descriptor == output for descriptor, _ in watch.poll()):
                return
            yield _result(_line(link, time.monotonic() + TIMEOUT, one=True))


def _patience(request: Request) -> float:
    return LONG_TIMEOUT if request.payload or request.verb == "remove-tunnel" else TIMEOUT


@contextlib.contextmanager
def _asked(path: Path, request: Request) -> Iterator[socket.socket]:
    """A connection on which the request has been sent; turns what goes wrong into `NoService`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as link:
            link.settimeout(_patience(request))
            link.connect(str(path))
            with contextlib.suppress(BrokenPipeError):  # a refusal may have come before we said a word
                link.sendall(render_request(request))
            yield link
    except FileNotFoundError:
        raise NoService("the service is not running") from None
    except PermissionError:
        raise NoService("not allowed to speak with the service (run as root, or in its group)") from None
    except OSError as error:
        raise NoService(f"the service does not answer: {error.strerror or error}") from None
    except BadMessage as error:
        raise NoService(str(error)) from None


def _result(line: bytes) -> Any:
    ok, result = parse_reply(line)
    if not ok:
        raise ServiceRefused(str(result))
    return result


def _line(link: socket.socket, deadline: float, *, one: bool = False) -> bytes:
    """What comes to the end of a line; only `one` line where others may follow."""
    received = b""
    while not received.endswith(b"\n") and len(received) <= MAX_REPLY:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        link.settimeout(left)
        try:
            part = link.recv(1 if one else 65536)
        except ConnectionResetError:  # closed with our request unread; what was said before counts
            break
        if not part:
            break
        received += part
    return received
