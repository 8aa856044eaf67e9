# SPDX-License-Identifier: BSD-2-Clause
"""``miragevpn rpc SERVICE [ARGUMENT]``: what the programs in /etc/qubes-rpc execute, once dom0's policy has agreed.

It prints one JSON object. What is wrong with a call goes to the system log; the caller, who is another qube, is
told "refused", and more only where the refusal is about what the caller itself handed in. Standard input is
read as far as the service's row allows, in bounded time, and of few callers at once: each is a process of its own, and
one that hands nothing in stays until that time is over. A service that takes none does not look at it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import sys
import syslog
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.exitcodes import ExitCode

INPUT_TIME = 30.0  # seconds that a caller has to send what it hands in
MAX_INPUTS = 8  # callers who may be doing so at once: a process of some ten megabytes each
FOR_DOM0 = 2  # more of them, so that a qube that takes all the others does not keep dom0 from its VPN qube


def add_parser(subparsers: Any) -> None:
    """Add the subcommand; without help it is not listed."""
    parser = subparsers.add_parser("rpc")
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry a qrexec call out."""
    from qubes_miragevpn.qube.rpc.client import NoService, ServiceRefused, call
    from qubes_miragevpn.qube.rpc.messages import with_payload
    from qubes_miragevpn.qube.rpc.services import BadCall, check_call, find
    from qubes_miragevpn.qube.settings import control_socket

    reply: dict[str, str] = {"error": "refused"}
    try:
        request = check_call(arguments.service, arguments.words, os.environ)
        limit = find(arguments.service).payload
        if limit:
            with _place(control_socket(os.environ), request.caller == "dom0"):
                request = with_payload(request, _input(limit))
        if request.verb == "events":
            return _events(request)
        result = call(control_socket(os.environ), request)
    except BadCall as error:
        code, why = ExitCode.REFUSED, str(error)
    except ServiceRefused as error:
        code, why = ExitCode.REFUSED, str(error)
        if find(arguments.service).explains:
            reply["reason"] = why
    except NoService as error:
        code, why, reply = ExitCode.NO_SERVICE, str(error), {"error": "no service"}
    else:
        print(json.dumps(result))
        return ExitCode.OK
    _log(arguments.service, why)
    print(json.dumps(reply))
    return code


def _events(request: Any) -> ExitCode:
    """A line for each change until the caller leaves, or the service ends."""
    from qubes_miragevpn.qube.rpc.client import listen
    from qubes_miragevpn.qube.settings import control_socket

    for value in listen(control_socket(os.environ), request, sys.stdout.fileno()):
        print(json.dumps(value), flush=True)
    return ExitCode.OK


@contextlib.contextmanager
def _place(service: Path, dom0: bool) -> Iterator[None]:
    """One of the places of those who hand something in; raises `BadCall` if all are taken.

    A place is a name in the abstract namespace of sockets (unix(7)): only one process has it, and it goes with that.
    """
    from qubes_miragevpn.qube.rpc.services import BadCall

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as place:
        for number in range(MAX_INPUTS + FOR_DOM0 * dom0):
            with contextlib.suppress(OSError):
                place.bind(b"\0%b %d" % (os.fsencode(service)[-96:], number))
                break
        else:
            raise BadCall("too many callers hand something in at once")
        yield


def _input(limit: int) -> bytes:
    """Standard input to its end; raises `BadCall` if that is too far or too late."""
    from qubes_miragevpn.qube.rpc.services import BadCall

    descriptor, received, deadline = sys.stdin.fileno(), bytearray(), time.monotonic() + INPUT_TIME
    while len(received) <= limit:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise BadCall("what was handed in did not come whole in time")
        part = os.read(descriptor, 65536)
        if not part:
            return bytes(received)
        received += part
    raise BadCall(f"more than {limit} bytes were handed in")


def _log(service: str, why: str) -> None:
    from qubes_miragevpn.base.text import printable

    caller = printable(os.environ.get("QREXEC_REMOTE_DOMAIN", "nobody"), 64)
    syslog.openlog("miragevpn", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_WARNING, f"{printable(service, 64)} from {caller} refused: {printable(why, 300)}")
