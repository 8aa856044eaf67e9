# SPDX-License-Identifier: BSD-2-Clause
"""The commands that ask the service of a VPN qube, a row each; for qrexec's way in see `cli.rpc`.

What a command hands in (a profile, a password) is read here and sent; what is done with it is the service's part.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.errors import ConfigError, MirageError
from qubes_miragevpn.base.exitcodes import ExitCode

Option = tuple[tuple[str, ...], dict[str, Any]]
"""Names and settings of `ArgumentParser.add_argument`."""


@dataclass(frozen=True)
class Row:
    """A command: its help, its arguments, and what it hands in besides (None: nothing)."""

    help: str
    options: tuple[Option, ...] = ()
    payload: Callable[[argparse.Namespace], bytes] | None = None


def add_parser(subparsers: Any) -> None:
    """Add the subcommands."""
    for verb, row in ROWS.items():
        parser = subparsers.add_parser(verb, help=row.help, description=row.help[0].upper() + row.help[1:] + ".")
        parser.add_argument("--json", action="store_true", help="print the service's answer as it is")
        for names, settings in row.options:
            parser.add_argument(*names, **settings)
        parser.set_defaults(run=run, verb=verb)


def run(arguments: argparse.Namespace) -> int:
    """Ask the service and show its answer; raises `ConfigError` for what cannot be asked."""
    from qubes_miragevpn.qube.rpc.client import NoService, ServiceRefused, call, listen
    from qubes_miragevpn.qube.rpc.messages import Request
    from qubes_miragevpn.qube.settings import control_socket

    row = ROWS[arguments.verb]
    fields = {
        name: getattr(arguments, name, None) for name in ("name", "to", "tunnel", "address", "rollback", "release")
    }
    _check_names(fields)
    payload = row.payload(arguments) if row.payload is not None else b""
    try:
        if arguments.verb == "events":
            for value in listen(control_socket(os.environ), Request("events"), sys.stdout.fileno()):
                print(json.dumps(value), flush=True)
            return ExitCode.OK
        result = call(control_socket(os.environ), Request(arguments.verb, **fields, payload=payload))
    except NoService as error:
        print(f"miragevpn: {error}", file=sys.stderr)
        return ExitCode.NO_SERVICE
    except ServiceRefused as error:
        print(f"miragevpn: {error}", file=sys.stderr)
        return ExitCode.REFUSED
    print(json.dumps(result) if arguments.json else _shown(arguments.verb, result))
    return ExitCode.OK


def _check_names(fields: dict[str, Any]) -> None:
    from qubes_miragevpn.base.names import valid_profile_name
    from qubes_miragevpn.qube.rpc.messages import TUNNEL_NAME

    if fields["tunnel"] == "default":
        fields["tunnel"] = None
    if fields["tunnel"] is not None and not TUNNEL_NAME.match(fields["tunnel"]):
        raise ConfigError("not the name of a tunnel", fix="vpn0 to vpn15")
    for key in ("name", "to"):
        if fields[key] is not None and not valid_profile_name(fields[key]):
            raise ConfigError("not the name of a profile", fix="letters, digits and ._- only, at most 64")


# --- what is handed in --------------------------------------------------------------------------------------


def _profile(arguments: argparse.Namespace) -> bytes:
    """The file as it is if it is a tar; a profile with the files that it names as one."""
    from qubes_miragevpn.qube.rpc.messages import MAX_IMPORT

    path = Path(arguments.file)
    with path.open("rb") as file:
        text = file.read(MAX_IMPORT + 1)
    if len(text) > MAX_IMPORT:
        raise ConfigError(f"larger than {MAX_IMPORT} bytes", file=str(path))
    return text if text[257:262] == b"ustar" else _with_files(path, text)


def _with_files(path: Path, text: bytes) -> bytes:
    """The profile, and as a tar what lies beside it and is named in it; raises `ConfigError` as `check` would."""
    import io
    import tarfile

    from qubes_miragevpn.config.building.trust import Surroundings
    from qubes_miragevpn.config.loader import load_client
    from qubes_miragevpn.runtime.files import profile_reader

    read_file, found = profile_reader(path.parent, confined=True), dict[str, bytes]()

    def noting(name: str) -> bytes:
        found[os.path.normpath(name)] = read_file(name)
        return found[os.path.normpath(name)]

    load_client(text, file=str(path), read_file=noting, surroundings=Surroundings(locked_keys=True))
    if not found:
        return text
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in {"profile.ovpn": text, **found}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _credentials(arguments: argparse.Namespace) -> bytes:
    """Asked for at the terminal, or two lines of standard input; nothing to have them forgotten."""
    if arguments.forget:
        return b""
    if not sys.stdin.isatty():
        return sys.stdin.buffer.read(8192)
    import asyncio

    from qubes_miragevpn.runtime.plain.credentials import ask_at_terminal

    given = asyncio.run(ask_at_terminal(""))
    if given is None:
        raise ConfigError("nothing was entered, nothing was changed")
    return given.username.encode("utf-8", "surrogateescape") + b"\n" + given.password.reveal() + b"\n"


def _answer(arguments: argparse.Namespace) -> bytes:
    """A line, asked for at the terminal without showing it, or of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.buffer.read(8192)
    import getpass

    return getpass.getpass("Answer: ").encode("utf-8", "surrogateescape") + b"\n"


_TUNNEL: Option = (("tunnel",), {"metavar": "TUNNEL", "nargs": "?", "help": "vpn1 and so on; vpn0 if not given"})
_NAME: Option = (("name",), {"metavar": "PROFILE"})

ROWS = {
    "status": Row("show what the tunnel does", (_TUNNEL,)),
    "details": Row("show every tunnel, and which qube uses which"),
    "profiles": Row("list the profiles"),
    "switch": Row(
        "connect by another profile",
        (
            _NAME,
            (("--tunnel",), {"metavar": "TUNNEL", "help": "this one, made if there is none yet (vpn1 to vpn15)"}),
            (("--rollback",), {"action": "store_true", "default": None, "help": "back to the old one if it fails"}),
        ),
    ),
    "connect": Row("connect, or try again at once", (_TUNNEL,)),
    "disconnect": Row("close the tunnel and stay closed", (_TUNNEL,)),
    "answer": Row("answer a question of the server's, such as for a one-time code", (_TUNNEL,), _answer),
    "events": Row("print a line of JSON for every change, until Ctrl-C"),
    "assign": Row(
        "have a qube use one of several tunnels",
        (
            (("address",), {"metavar": "ADDRESS", "help": "the qube's IP address, as in qvm-ls --network"}),
            (("tunnel",), {"metavar": "TUNNEL", "help": "vpn0 to vpn15, or default"}),
        ),
    ),
    "remove-tunnel": Row(
        "close a tunnel and forget it; the qubes assigned to it stay closed",
        (
            (("tunnel",), {"metavar": "TUNNEL", "help": "vpn1 to vpn15"}),
            (
                ("--default",),
                {"action": "store_true", "default": None, "dest": "release", "help": "have them use vpn0 again"},
            ),
        ),
    ),
    "import": Row(
        "store a profile, in the place of one of that name",
        (_NAME, (("file",), {"metavar": "FILE", "help": "an .ovpn, with the files it names beside it, or a tar"})),
        _profile,
    ),
    "remove": Row("remove a profile with its credentials", (_NAME,)),
    "rename": Row("give a profile another name", (_NAME, (("to",), {"metavar": "NEW-NAME"}))),
    "default": Row(
        "say which profile a boot begins with (none: the one used last)",
        ((("name",), {"metavar": "PROFILE", "nargs": "?"}),),
    ),
    "credentials": Row(
        "set the user name and password of a profile",
        (_NAME, (("--forget",), {"action": "store_true", "help": "remove them"})),
        _credentials,
    ),
}

# --- showing ------------------------------------------------------------------------------------------------


def _shown(verb: str, result: Any) -> str:
    """The service's answer for people."""
    if not isinstance(result, dict):
        raise MirageError("the service's answer is not understood")
    return SHOWN.get(verb, _table)(result)


def _profiles(result: dict[str, Any]) -> str:
    """A line each; the one that vpn0 uses has a star."""
    current, default = result.get("current"), result.get("default")
    lines = [
        f"{'*' if name == current else ' '} {name}{' (default)' if name == default else ''}"
        for name in result["profiles"]
    ]
    return "\n".join(lines) or "no profiles: `miragevpn import NAME FILE` stores one"


def _default(result: dict[str, Any]) -> str:
    return _table(result) if result["default"] else "no default: a boot begins with the profile used last"


def _details(result: dict[str, Any]) -> str:
    """The tunnels, then who is there and by which tunnel, then who is assigned and not there."""
    tunnels, there, assigned = result["tunnels"], result["downstream"], result["assigned"]
    rows = [
        (name, each["state"], *filter(None, (each["profile"], each["question"] or each["reason"])))
        for name, each in tunnels.items()
    ]
    for vif, addresses in there.items():
        ways = {assigned[address] for address in addresses if address in assigned} or {"vpn0"}
        waits = not addresses and (len(tunnels) > 1 or assigned)  # whose it is is not known yet
        rows.append((vif, "closed" if waits or len(ways) > 1 or not ways <= set(tunnels) else ways.pop(), *addresses))
    present = {address for addresses in there.values() for address in addresses}
    rows += [(address, way, "not there") for address, way in assigned.items() if address not in present]
    first, second = (max(len(row[place]) for row in rows) for place in (0, 1))
    return "\n".join(f"{row[0]:<{first}}  {row[1]:<{second}}  {' '.join(row[2:])}".rstrip() for row in rows)


def _table(result: dict[str, Any]) -> str:
    """A line for each key that has a value."""
    flat = {key: "\n           ".join(value) if isinstance(value, list) else value for key, value in result.items()}
    width = max(10, *map(len, flat))
    lines = (f"{key.replace('_', ' '):<{width}} {value}" for key, value in flat.items() if value not in (None, ""))
    return "\n".join(lines)


SHOWN: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "profiles": _profiles,
    "default": _default,
    "details": _details,
}
"""What is not shown as a table of keys and values."""
