# SPDX-License-Identifier: BSD-2-Clause
"""The command `miragevpn`: finds the subcommand, runs it, and says in one line what went wrong.

Every module named in `COMMANDS` has `add_parser(subparsers)`, which adds its parser and calls
`set_defaults(run=...)` with a function `run(arguments) -> int` that returns an exit code. Such a module imports at
its top only what its parser needs; `run` imports the rest, so that `--help` and `status` start at once.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.errors import ConfigError, MirageError, MisuseError, PeerError
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli import logs

COMMANDS = {
    "client": "client",
    "server": "server",
    "check": "check",
    "genkey": "genkey",
    "pki": "pki",
    "clients": "clients",
    "passwd": "passwd",
    "service": "service",
    "status": "remote",
    "profiles": "remote",
    "switch": "remote",
    "connect": "remote",
    "disconnect": "remote",
    "details": "remote",
    "events": "remote",
    "answer": "remote",
    "assign": "remote",
    "remove-tunnel": "remote",
    "import": "remote",
    "remove": "remote",
    "rename": "remote",
    "default": "remote",
    "credentials": "remote",
    "rpc": "rpc",
}
"""Each command, and the module of `qubes_miragevpn.cli` that has it."""

_EPILOG = "exit codes: " + ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line `args` (without the program's name; None: that of the process)."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words[:1]  # known even where the parser fails
    try:
        arguments = _parser(words).parse_args(words)
        logs.set_up(debug=arguments.debug)
        if not arguments.debug and not sys.warnoptions:
            # The libraries' words to programmers, such as that a certificate has the serial number 0.
            warnings.simplefilter("ignore")
        code = int(arguments.run(arguments))
        sys.stdout.flush()  # here, where a reader that went away is understood
        return code
    except SystemExit as end:  # argparse: --help, --version, a wrong command line
        return end.code if isinstance(end.code, int) else int(ExitCode.CONFIG)
    except KeyboardInterrupt:
        return int(ExitCode.OK)
    except BrokenPipeError:  # the reader of our output went away; nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except Exception as error:
        return int(_explain(error, debug))


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="miragevpn", description="A VPN that carries everything or nothing.", epilog=_EPILOG
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and end")
    parser.add_argument("--debug", action="store_true", help="log details, show tracebacks (give it first)")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    named = next((word for word in words if not word.startswith("-")), None)
    for module in (COMMANDS[named],) if named in COMMANDS else dict.fromkeys(COMMANDS.values()):
        importlib.import_module(f"qubes_miragevpn.cli.{module}").add_parser(subparsers)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when asked for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"miragevpn {version()}")
        parser.exit(0)


def version() -> str:
    """The version: of the clone that we run from, or of the installed package."""
    clone = Path(__file__).parents[2]
    if (clone / "setup.py").is_file() and (clone / "version").is_file():
        return (clone / "version").read_text(encoding="ascii").strip()
    from importlib import metadata

    try:
        return metadata.version("qubes-miragevpn")
    except metadata.PackageNotFoundError:
        return "unknown"


def _explain(error: Exception, debug: bool) -> ExitCode:
    """Say what went wrong and return the exit code that tells it."""
    if debug:
        logging.getLogger(logs.ROOT).error("traceback follows", exc_info=error)
    if isinstance(error, ConfigError):
        _say(str(error))
        return ExitCode.CONFIG
    if isinstance(error, PeerError):
        _say(error.reason)
        return ExitCode.CONNECTION
    if isinstance(error, MirageError) and not isinstance(error, MisuseError):
        _say(str(error))
        return ExitCode.SYSTEM
    if isinstance(error, OSError):
        named = f"{error.filename}: " if isinstance(error.filename, str) else ""
        _say(f"{named}{error.strerror or error}")
        return ExitCode.SYSTEM
    _say(f"internal error: {type(error).__name__}: {error}")
    if not debug:
        _say("this is a bug; `miragevpn --debug ...` shows where it happened")
    return ExitCode.INTERNAL


def _say(line: str) -> None:
    shown = " ".join(line.splitlines())
    if logs.coloured(sys.stderr):
        shown = f"\x1b[31m{shown}\x1b[0m"
    print(f"miragevpn: {shown}", file=sys.stderr)
