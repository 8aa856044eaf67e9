# SPDX-License-Identifier: BSD-2-Clause
"""The commands that ask a VPN qube: what it does, and to do something else. A row each.

All of it goes over qrexec, to services that dom0's policy guards (doc/rpc.md), and what comes back has been through
`talking.replies`. A password is asked for at the terminal or read from standard input, never taken from the command
line.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from qubes_miragevpn.admin import sources
from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.admin.talking import replies
from qubes_miragevpn.admin.talking.machine import Machine
from qubes_miragevpn.admin.talking.service import MAX_SECRET, ask, listen
from qubes_miragevpn.admin.vpnqube import must_run
from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode

Payload = Callable[[Machine, argparse.Namespace], bytes]


@dataclass(frozen=True)
class Row:
    """A command: its service, the argument and the bytes that go there, the reader of the answer, how it is shown."""

    service: str
    reader: Callable[[Any], Any]
    show: Callable[[Any, argparse.Namespace], str]
    argument: Callable[[argparse.Namespace], str] = lambda arguments: ""
    payload: Payload = lambda machine, arguments: b""


def run(machine: Machine, arguments: argparse.Namespace) -> ExitCode:
    """Ask, validate, show; raises `Failure`, `ConfigError`."""
    vpn = arguments.vpn
    must_run(machine, vpn)
    if arguments.command == "status" and arguments.watch:
        return _watch(machine, vpn, as_json=arguments.json)
    row = ROWS[arguments.command]
    argument, payload = row.argument(arguments), row.payload(machine, arguments)
    answer = replies.take(ask(machine, vpn, row.service, argument, payload), vpn, row.service, row.reader)
    shown = row.show(answer, arguments)
    if shown:
        print(shown)
    return ExitCode.OK


def _watch(machine: Machine, vpn: str, *, as_json: bool) -> ExitCode:
    """A line for every change, until Ctrl-C; raises `Failure` when the service ends."""
    for untrusted_line in listen(machine, vpn, "miragevpn.Events"):
        event = replies.take_line(untrusted_line, vpn)
        print(json.dumps(asdict(event)) if as_json else _told(event), flush=True)
    raise Failure(ExitCode.NO_SERVICE, f"{vpn} tells nothing any more", f"qvm-miragevpn status --vpn {vpn}")


# --- what is handed in --------------------------------------------------------------------------------------


def _profile(machine: Machine, arguments: argparse.Namespace) -> bytes:
    return sources.read(machine, sources.parse(arguments.source))


def _credentials(machine: Machine, arguments: argparse.Namespace) -> bytes:
    """Two lines; nothing to have them forgotten."""
    if arguments.forget:
        return b""
    if not sys.stdin.isatty():
        return _standard_input()
    user = input("User name: ")
    password = getpass.getpass("Password: ")
    if not user or not password:
        raise ConfigError("nothing was entered, nothing was changed")
    return _bounded(f"{user}\n{password}\n".encode("utf-8", "surrogateescape"))


def _answer(machine: Machine, arguments: argparse.Namespace) -> bytes:
    if not sys.stdin.isatty():
        return _standard_input()
    return _bounded(getpass.getpass("Answer: ").encode("utf-8", "surrogateescape") + b"\n")


def _standard_input() -> bytes:
    return _bounded(sys.stdin.buffer.read(MAX_SECRET + 1))


def _bounded(secret: bytes) -> bytes:
    if len(secret) > MAX_SECRET:
        raise ConfigError(f"longer than {MAX_SECRET} bytes")
    if not secret.strip():
        raise ConfigError("nothing was entered, nothing was changed")
    return secret


def _switch_words(arguments: argparse.Namespace) -> str:
    words = [arguments.profile]
    if arguments.tunnel is not None:
        words.append(arguments.tunnel)
    if arguments.rollback:
        words.append("rollback")
    return "+".join(words)


# --- showing ------------------------------------------------------------------------------------------------


def _shown_details(details: replies.Details, arguments: argparse.Namespace) -> str:
    if arguments.json:
        return json.dumps(asdict(details))
    lines = [_shown_tunnel(name, status) for name, status in details.tunnels.items()]
    for interface, addresses in details.downstream.items():
        way = _way(details, addresses)
        lines += [f"  {address:<16} {interface:<8} {way}" for address in addresses]
    return "\n".join(lines)


def _way(details: replies.Details, addresses: tuple[str, ...]) -> str:
    """What the qube with these addresses uses: one tunnel for all of them, whichever of them was assigned."""
    ways = {details.assigned[address] for address in addresses if address in details.assigned} or {"vpn0"}
    if len(ways) > 1:
        return f"closed: assigned to {' and '.join(sorted(ways))}"
    (way,) = ways
    return f"uses {way}" if way in details.tunnels else f"closed: there is no {way}"


def _shown_tunnel(name: str, status: replies.Status) -> str:
    lines = [f"{name:<6} {status.state:<11} {status.profile or '(no profile)':<20} since {status.since}"]
    if status.state == "connected":
        lines.append(f"       {status.bytes_in} bytes in, {status.bytes_out} bytes out ({status.backend})")
    if status.reason:
        lines.append(f"       {status.reason}")
    if status.question:
        lines.append(f"       an answer is wanted: {status.question}")
        lines.append(f"       to answer: qvm-miragevpn answer {name}")
    return "\n".join(lines)


def _shown_status(status: replies.Status, arguments: argparse.Namespace) -> str:
    return _shown_tunnel(arguments.tunnel or "vpn0", status)


def _shown_profiles(found: replies.Profiles, arguments: argparse.Namespace) -> str:
    if arguments.json:
        return json.dumps(asdict(found))
    lines = [
        f"{'*' if name == found.current else ' '} {name}{' (default)' if name == found.default else ''}"
        for name in found.profiles
    ]
    return "\n".join(lines) or "no profiles: `qvm-miragevpn import NAME SOURCE` hands one in"


def _told(event: replies.Event) -> str:
    if event.status is not None:
        return _shown_tunnel(event.tunnel, event.status)
    if event.kind == "assigned":
        return f"{event.address} uses {event.tunnel}"
    if event.kind == "removed":
        return f"{event.tunnel} is gone"
    return f"profiles: {' '.join(event.profiles)}"


def _shown_warnings(found: tuple[str, ...], arguments: argparse.Namespace) -> str:
    stored = f"stored as {arguments.profile}; to connect by it: qvm-miragevpn switch {arguments.profile}"
    return "\n".join([*(f"warning: {each}" for each in found), stored])


ROWS = {
    "status": Row("miragevpn.Details", replies.details, _shown_details),
    "log": Row("miragevpn.Log", replies.log, lambda lines, _: "\n".join(lines)),
    "profiles": Row("miragevpn.Profiles", replies.profiles, _shown_profiles),
    "import": Row(
        "miragevpn.ImportProfile", replies.warnings, _shown_warnings, lambda arguments: arguments.profile, _profile
    ),
    "delete": Row(
        "miragevpn.RemoveProfile",
        replies.done,
        lambda _, arguments: f"{arguments.profile} is gone",
        lambda arguments: arguments.profile,
    ),
    "switch": Row("miragevpn.Switch", replies.status, _shown_status, _switch_words),
    "connect": Row("miragevpn.Connect", replies.status, _shown_status, lambda arguments: arguments.tunnel or ""),
    "disconnect": Row("miragevpn.Disconnect", replies.status, _shown_status, lambda arguments: arguments.tunnel or ""),
    "remove-tunnel": Row(
        "miragevpn.RemoveTunnel",
        replies.done,
        lambda _, arguments: f"{arguments.tunnel} is gone",
        lambda arguments: arguments.tunnel + ("+default" if arguments.default else ""),
    ),
    "credentials": Row(
        "miragevpn.SetCredentials",
        replies.credentials,
        lambda done, arguments: f"credentials of {arguments.profile}: {done}",
        lambda arguments: arguments.profile,
        _credentials,
    ),
    "answer": Row(
        "miragevpn.Answer", replies.done, lambda *_: "answered", lambda arguments: arguments.tunnel or "", _answer
    ),
}
