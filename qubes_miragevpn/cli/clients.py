# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn clients SOCKET`: who is connected to a server, asked at its management socket."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.base.exitcodes import ExitCode

if TYPE_CHECKING:
    from qubes_miragevpn.runtime.operating.roster import Roster

_CLEAR = "\x1b[H\x1b[2J"
_COLUMNS = (("NAME", 24), ("FROM", 24), ("ADDRESSES", 32), ("SINCE", 12), ("RECEIVED", 11), ("SENT", 11))


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `clients` to the command line."""
    parser = subparsers.add_parser(
        "clients",
        help="who is connected to a server",
        description="Show who is connected to the server whose configuration says 'management SOCKET unix'.",
    )
    parser.add_argument("socket", type=Path, metavar="SOCKET", help="the server's management socket")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--watch", action="store_true", help="show it anew every second, with the rates, until Ctrl-C")
    form.add_argument("--json", action="store_true", help="write a JSON object")
    form.add_argument("--prometheus", action="store_true", help="write Prometheus' text format")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask and show."""
    from qubes_miragevpn.runtime.operating import roster

    if arguments.watch:
        return _watch(arguments.socket)
    found = _ask(arguments.socket)
    if arguments.json:
        print(roster.as_json(found))
    elif arguments.prometheus:
        sys.stdout.write(roster.prometheus(found))
    else:
        print("\n".join(_table(found, None)))
    return ExitCode.OK


def _watch(socket: Path) -> int:
    before: _Seen | None = None
    while True:
        seen = _Seen(time.monotonic(), _ask(socket))
        lines = _table(seen.roster, before, seen.at)
        if sys.stdout.isatty():
            sys.stdout.write(_CLEAR + "\n".join(lines[: shutil.get_terminal_size().lines - 1]) + "\n")
        else:
            print("\n".join(lines))
        sys.stdout.flush()
        before = seen
        time.sleep(1)


@dataclass(frozen=True)
class _Seen:
    at: float
    roster: Roster


def _ask(socket: Path) -> Roster:
    from qubes_miragevpn.runtime.operating.asking import ask

    try:
        return ask(socket)
    except OSError as error:
        raise SystemRefused(
            f"no server answers at {socket}: {error.strerror or error}",
            "does its configuration say 'management SOCKET unix', and may you open that?",
        ) from None


def _table(roster: Roster, before: _Seen | None, at: float = 0.0) -> list[str]:
    from qubes_miragevpn.cli.foreground import amount

    old = {each.number: each for each in before.roster.members} if before else {}
    took = at - before.at if before else 0.0
    lines = ["".join(f"{name:<{width}}" for name, width in _COLUMNS).rstrip()]
    for each in sorted(roster.members, key=lambda member: (member.name, member.number)):
        last = old.get(each.number)
        if last is None or took <= 0:
            moved = (amount(each.bytes_in), amount(each.bytes_out))
        else:
            rates = ((each.bytes_in - last.bytes_in) / took, (each.bytes_out - last.bytes_out) / took)
            moved = (f"{amount(max(0.0, rates[0]))}/s", f"{amount(max(0.0, rates[1]))}/s")
        cells = (each.name, each.endpoint, ", ".join(each.inner), _since(roster.at - each.since), *moved)
        lines.append(
            "".join(f"{cell:<{width - 1}} " for cell, (_, width) in zip(cells, _COLUMNS, strict=True)).rstrip()
        )
    return [f"{len(roster.members)} clients", *lines] if roster.members else ["nobody is connected"]


def _since(seconds: int) -> str:
    minutes, hours = seconds // 60, seconds // 3600
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{max(seconds, 0)} s"
