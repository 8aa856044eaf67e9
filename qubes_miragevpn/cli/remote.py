# SPDX-License-Identifier: BSD-2-Clause
"""The commands that ask the service: status, profiles, switch, connect, disconnect; and ``rpc``, the qrexec side.

``rpc SERVICE [ARGUMENT]`` is what the programs in /etc/qubes-rpc execute. It prints one JSON object. What is wrong
with a call goes to the system log; the caller, who is another qube, is told "refused" and no more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import syslog
from typing import Any

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.exitcodes import ExitCode

_HELP = {
    "status": "show what the tunnel does",
    "profiles": "list the profiles",
    "switch": "connect by another profile",
    "connect": "connect, or try again at once",
    "disconnect": "close the tunnel and stay closed",
}


def add_parser(subparsers: Any) -> None:
    """Add the subcommands."""
    for verb, text in _HELP.items():
        parser = subparsers.add_parser(verb, help=text, description=text[0].upper() + text[1:] + ".")
        parser.add_argument("--json", action="store_true", help="print the service's answer as it is")
        if verb == "switch":
            parser.add_argument("name", metavar="PROFILE")
        parser.set_defaults(run=run, verb=verb)
    parser = subparsers.add_parser("rpc")  # without help it is not listed
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    parser.set_defaults(run=run_rpc)


def run(arguments: argparse.Namespace) -> int:
    """Ask the service and show its answer."""
    from qubes_miragevpn.base.names import valid_profile_name
    from qubes_miragevpn.qube.rpc.client import NoService, ServiceRefused
    from qubes_miragevpn.qube.rpc.messages import Request

    name = getattr(arguments, "name", None)
    if name is not None and not valid_profile_name(name):
        print("miragevpn: not the name of a profile", file=sys.stderr)
        return ExitCode.CONFIG
    try:
        result = _call(Request(arguments.verb, name))
    except NoService as error:
        print(f"miragevpn: {error}", file=sys.stderr)
        return ExitCode.NO_SERVICE
    except ServiceRefused as error:
        print(f"miragevpn: {error}", file=sys.stderr)
        return ExitCode.REFUSED
    print(json.dumps(result) if arguments.json else _shown(arguments.verb, result))
    return ExitCode.OK


def run_rpc(arguments: argparse.Namespace) -> int:
    """Carry a qrexec call out; the policy of dom0 has let it through."""
    from qubes_miragevpn.base.text import printable
    from qubes_miragevpn.qube.rpc.client import NoService, ServiceRefused
    from qubes_miragevpn.qube.rpc.services import BadCall, check_call

    code, why = ExitCode.OK, ""
    try:
        result = _call(check_call(arguments.service, arguments.words, os.environ))
    except BadCall as error:
        code, why = ExitCode.REFUSED, str(error)
    except ServiceRefused as error:
        code, why = ExitCode.REFUSED, str(error)
    except NoService as error:
        code, why = ExitCode.NO_SERVICE, str(error)
    if code is ExitCode.OK:
        print(json.dumps(result))
        return code
    caller = printable(os.environ.get("QREXEC_REMOTE_DOMAIN", "nobody"), 64)
    syslog.openlog("miragevpn", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_WARNING, f"{printable(arguments.service, 64)} from {caller} refused: {why}")
    print(json.dumps({"error": "no service" if code is ExitCode.NO_SERVICE else "refused"}))
    return code


def _call(request: Any) -> Any:
    from qubes_miragevpn.qube.rpc.client import call
    from qubes_miragevpn.qube.settings import control_socket

    return call(control_socket(os.environ), request)


def _shown(verb: str, result: Any) -> str:
    """The service's answer for people."""
    if not isinstance(result, dict):
        raise MirageError("the service's answer is not understood")
    if verb == "profiles":
        return "\n".join(f"{'*' if name == result.get('current') else ' '} {name}" for name in result["profiles"])
    lines = [f"{key.replace('_', ' '):<10} {value}" for key, value in result.items() if value not in (None, "")]
    return "\n".join(lines)
