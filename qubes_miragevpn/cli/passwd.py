# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn passwd FILE NAME`: set or remove a password in a server's `auth-user-pass-file`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.base.secret import Secret


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `passwd` to the command line."""
    parser = subparsers.add_parser(
        "passwd",
        help="set a password in a server's auth-user-pass-file",
        description="Ask for a password and keep its hash in FILE, or take one line from standard input.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="made if it is not there; its owner's alone")
    parser.add_argument("name", metavar="NAME", help="the user's name")
    parser.add_argument("--remove", action="store_true", help="remove the name instead")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask and write."""
    from qubes_miragevpn.runtime.operating.logins import passwords

    password = None if arguments.remove else _ask()
    if not passwords.write(arguments.file, arguments.name, password):
        raise ConfigError("no such name", file=str(arguments.file))
    print(f"{arguments.name} is {'removed from' if arguments.remove else 'set in'} {arguments.file}")
    return ExitCode.OK


def _ask() -> Secret:
    from qubes_miragevpn.cli.words import ask_twice

    if sys.stdin and not sys.stdin.isatty():
        line = sys.stdin.buffer.readline(4096).rstrip(b"\r\n")
        if not line:
            raise ConfigError("no password on standard input")
        return Secret(line)
    return ask_twice("New password: ")
