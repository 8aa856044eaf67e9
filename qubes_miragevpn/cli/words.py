# SPDX-License-Identifier: BSD-2-Clause
"""`[FILE] [--OPTION ARGUMENTS ...]`: the command line of `client` and `server`, which is openvpn's.

Options after FILE outrank it; relative paths among them count from the current directory, those in FILE from where it
lies. Without FILE the options are the whole configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret

if TYPE_CHECKING:
    from qubes_miragevpn.config.building.trust import Surroundings

HELP = frozenset({"-h", "--help"})


@dataclass(frozen=True)
class Named:
    """What a command line names: the text of FILE, what it is called, and what can be had besides."""

    text: bytes
    file: str
    folder: Path  # from which relative paths count
    read_file: Callable[[str], bytes]
    surroundings: Surroundings


def add_command(subparsers: Any, name: str, *, what: str, description: str) -> argparse.ArgumentParser:
    """Add the parser of a command whose words are openvpn's options, which argparse leaves alone."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=what,
        description=description,
        usage=f"miragevpn {name} [FILE] [--OPTION ARGUMENT ...] ...",
        epilog="Any option of the configuration language may follow, as --NAME ARGUMENTS; it outranks FILE. "
        "doc/options.md lists them.",
        prefix_chars="\0",
        add_help=False,
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="FILE", help="the configuration (.ovpn, .conf)")
    parser.set_defaults(parser=parser)
    return parser


def named_by(arguments: argparse.Namespace) -> Named | None:
    """Read what the words name; None after they asked for help. Raises `ConfigError`."""
    words: list[str] = arguments.words
    if HELP & set(words[:1]):
        arguments.parser.print_help()
        return None
    if not words:
        raise ConfigError("no file and no option is given", fix="see --help")
    return read_words(words)


def ask_password(prompt: str) -> Secret | None:
    """Ask at the terminal, without echo; None if there is none."""
    if not sys.stdin or not sys.stdin.isatty():
        return None
    try:
        return Secret(getpass(prompt).encode("utf-8", "surrogateescape"))
    except (EOFError, OSError):
        return None


def read_words(words: Sequence[str], ask: Callable[[str], Secret | None] | None = ask_password) -> Named:
    """Read FILE, if the first word is one, and keep the options after it; `ask` for passwords. Raises `ConfigError`."""
    from qubes_miragevpn.config.building.trust import Surroundings
    from qubes_miragevpn.config.reading.sources import COMMAND_LINE, CommandLine
    from qubes_miragevpn.runtime.files import directory_lister, profile_reader, read_bounded

    file = words[0] if words and not words[0].startswith("--") else None
    folder = Path() if file is None else Path(file).parent
    try:
        text = b"" if file is None else read_bounded(Path(file))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=words[0]) from error
    options = tuple(words if file is None else words[1:])
    surroundings = Surroundings(
        list_directory=directory_lister(folder, confined=False),
        ask_password=ask,
        unix_time=int(time.time()),
        command_line=CommandLine(options, os.getcwd()),
        around=True,
    )
    return Named(text, file or COMMAND_LINE, folder, profile_reader(folder, confined=False), surroundings)


def ask_twice(prompt: str) -> Secret:
    """Ask for a new password until it is said the same twice; raises `ConfigError` if it is not, or nobody is there."""
    first = ask_password(prompt)
    if first is None:
        raise ConfigError("a password is asked for at a terminal, and there is none")
    second = ask_password("The same again: ")
    if second is None or first.reveal() != second.reveal() or not first.reveal():
        raise ConfigError("the two are not the same, or empty; nothing was made")
    return first
