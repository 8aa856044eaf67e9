# SPDX-License-Identifier: BSD-2-Clause
"""``miragevpn rpc SERVICE [ARGUMENT]``: what the programs in /etc/qubes-rpc execute, once dom0's policy has agreed.

It prints one JSON object. What is wrong with a call goes to the system log; the caller, who is another qube, is
told "refused", and more only where the refusal is about what the caller itself handed in. Standard input is
read as far as the service's row allows, and in bounded time; a service that takes none does not look at it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import syslog
import time
from typing import Any

from qubes_miragevpn.base.exitcodes import ExitCode

INPUT_TIME = 30.0  # seconds that a caller has to send what it hands in


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
