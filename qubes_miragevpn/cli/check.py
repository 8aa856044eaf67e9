# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn check FILE...`: say what a configuration will do, what is doubtful in it, and what is wrong.

Nothing is connected to and nothing is changed. The files that a configuration names are read, and never shown in a
message; `--render` writes the configuration in canonical form without secrets, `--inline` as one file that has it all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.cli import logs

if TYPE_CHECKING:
    from qubes_miragevpn.config.loader import Examined
    from qubes_miragevpn.config.model import ClientConfig, PointClient, PointServer, ServerConfig, StaticConfig

T = TypeVar("T", "ClientConfig", "ServerConfig", "PointClient", "PointServer")

_COLUMN = 18
_SAID_BY = {"tls-groups": ("ecdh-curve",), "cert": ("pkcs12",), "key": ("pkcs12",), "ca": ("capath", "pkcs12")}
"""Directives that say what another one does, by which the TLS library's errors are named."""
_COLOURS = {"notes": "\x1b[2m", "warnings": "\x1b[33m", "errors": "\x1b[31m"}
_PLAIN = "\x1b[0m"


@dataclass
class Report:
    """What is said about one file; `summary` has a heading and one or more lines for each subject."""

    file: str
    role: str
    summary: dict[str, list[str]] = field(default_factory=dict)
    config: ClientConfig | ServerConfig | StaticConfig | PointClient | PointServer | None = None
    lines: list[str] = field(default_factory=list)  # of the file itself, for messages
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[ConfigError] = field(default_factory=list)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `check` to the command line."""
    parser = subparsers.add_parser(
        "check",
        help="say what a configuration will do and what is wrong with it",
        description="Read configurations and say what they will do, what is doubtful and what is wrong.",
        epilog="exit codes: 0 usable, 1 warnings (with --strict), 2 an error in a file",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a client profile or a server's configuration")
    parser.add_argument("--role", choices=("client", "server"), help="how to read FILE (default: by what it says)")
    parser.add_argument("--strict", action="store_true", help="fail on warnings")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write a JSON list, one object per file")
    form.add_argument("--render", action="store_true", help="write FILE in canonical form, without secrets")
    form.add_argument(
        "--inline",
        action="store_true",
        help="write FILE as one that needs no other, with its secrets",
    )
    parser.add_argument("--show-secrets", action="store_true", help="with --render: keys and passwords as well")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check every file, print the reports, return the exit code of the worst."""
    reports = [check(Path(file), arguments.role) for file in arguments.files]
    if arguments.render or arguments.inline:
        _write_canonical(reports, show_secrets=arguments.inline or arguments.show_secrets)
    elif arguments.json:
        print(json.dumps([_as_json(report) for report in reports], indent=2))
    elif len(reports) > 1:
        print("".join(_as_line(report) for report in reports) + _total(reports))
    else:
        print(_as_text(reports[0], colour=logs.coloured(sys.stdout)), end="")
    if any(report.errors for report in reports):
        return ExitCode.CONFIG
    if arguments.strict and any(report.warnings for report in reports):
        return ExitCode.WARNINGS
    return ExitCode.OK


def check(path: Path, role: str | None) -> Report:
    """Read one file in `role` (None: find out) and report."""
    from qubes_miragevpn.cli import summary
    from qubes_miragevpn.cli.words import read_words
    from qubes_miragevpn.config import loader

    try:
        named = read_words([f"./{path}" if str(path).startswith("-") else str(path)])
    except ConfigError as unreadable:
        return Report(str(path), role or "client", errors=[unreadable])
    text = named.text
    if role is None:
        role = _role_of(text)
    report = Report(str(path), role)
    report.lines = text.decode("utf-8", "replace").split("\n")
    file, offered = str(path), named.surroundings
    if role == "static-key peer":
        _tell_static(report, loader.examine_static(text, file=file, read_file=named.read_file, surroundings=offered))
    elif role == "peer that connects":
        connects = loader.examine_point_client(text, file=file, read_file=named.read_file, surroundings=offered)
        _tell(report, connects, summary.of_point_client)
    elif role == "peer that waits":
        waits = loader.examine_point_server(text, file=file, read_file=named.read_file, surroundings=offered)
        _tell(report, waits, summary.of_point_server)
    elif role == "server":
        server = loader.examine_server(text, file=file, read_file=named.read_file, surroundings=offered)
        _tell(report, server, summary.of_server)
    else:
        client = loader.examine_client(text, file=file, read_file=named.read_file, surroundings=offered)
        _tell(report, client, summary.of_client)
    return report


def _role_of(text: bytes) -> str:
    """What a file is, by what it says."""
    from qubes_miragevpn.config import loader

    if loader.looks_static(text):
        return "static-key peer"
    if end := loader.looks_between_two(text):
        return f"peer that {end}"
    return "server" if loader.looks_like_server(text) else "client"


def _tell(report: Report, examined: Examined[T], summary: Callable[[T], dict[str, list[str]]]) -> None:
    report.notes += examined.notes
    report.warnings += examined.warnings
    report.errors += examined.errors
    if examined.config is not None:
        report.errors += _tls_errors(examined.config, report, examined.places)
        report.summary = summary(examined.config)
        report.config = examined.config


def _tell_static(report: Report, examined: Examined[StaticConfig]) -> None:
    """Nothing of TLS is to be said of these."""
    from qubes_miragevpn.cli import summary

    report.notes += examined.notes
    report.warnings += examined.warnings
    report.errors += examined.errors
    if examined.config is not None:
        report.summary = summary.of_static(examined.config)
        report.config = examined.config


def _tls_errors(
    config: ClientConfig | ServerConfig | PointClient | PointServer,
    report: Report,
    places: Mapping[str, tuple[str, int]],
) -> list[ConfigError]:
    """What the TLS library says about certificates, key and ciphers: errors begin with the name of a directive."""
    from qubes_miragevpn.config.model import PointClient
    from qubes_miragevpn.protocol.control.tls import make_context

    common = config.client.common if isinstance(config, PointClient) else config.common
    waits = report.role in ("server", "peer that waits")
    try:
        make_context(common.identity, common.peer, common.tls, common.choices, server=waits)
    except ConfigError as error:
        name, _, problem = error.problem.partition(": ")
        for also in (name, *_SAID_BY.get(name, ())):
            if also in places:
                file, line = places[also]
                return [ConfigError(f"'{also}': {problem}", file=file, line=line, fix=error.fix)]
        return [ConfigError(error.problem, file=report.file, fix=error.fix)]
    return []


# --- forms ----------------------------------------------------------------------------------------------


def _write_canonical(reports: list[Report], *, show_secrets: bool) -> None:
    """The text of each file that is usable; what is wrong with the others goes to standard error."""
    from qubes_miragevpn.config.render import render

    for report in reports:
        if report.config is not None and not report.errors:
            try:
                print(render(report.config, show_secrets=show_secrets), end="")
            except ConfigError as error:
                report.errors.append(ConfigError(error.problem, file=report.file, fix=error.fix))
        for found in report.errors:
            print(f"miragevpn: {found}", file=sys.stderr)


def _as_line(report: Report) -> str:
    """One file among several: its verdict, and the first thing that is wrong."""
    shown = printable(report.file, 1000)
    if report.errors:
        more = f" (and {len(report.errors) - 1} more)" if len(report.errors) > 1 else ""
        return f"{shown}: not usable: {_without_file(report.errors[0], report.file)}{more}\n"
    warned = f", {len(report.warnings)} warnings" if report.warnings else ""
    return f"{shown}: usable as a {report.role}{warned}\n"


def _without_file(error: ConfigError, file: str) -> str:
    text = str(error)
    return text.removeprefix(f"{file}:").removeprefix(f"{file}: ").strip() if error.file == file else text


def _total(reports: list[Report]) -> str:
    broken = sum(bool(report.errors) for report in reports)
    warned = sum(bool(report.warnings) and not report.errors for report in reports)
    return f"{len(reports)} files: {len(reports) - broken} usable, {warned} of them with warnings; {broken} not usable"


def _offending(error: ConfigError, report: Report) -> list[str]:
    """The line that an error is about; nothing that could be a secret: a line of a key, a password in a wrong place."""
    from qubes_miragevpn.config.reading.lexer import WordError, split_words
    from qubes_miragevpn.config.rows.table import ROWS

    if error.file != report.file or not 0 < error.line <= len(report.lines):
        return []
    line = report.lines[error.line - 1].strip()
    try:
        row = ROWS.get((split_words(line) or ("",))[0].removeprefix("--"))
    except WordError:
        return []
    return [printable(line, 120)] if row is not None and not row.secret else []


def _as_text(report: Report, *, colour: bool) -> str:
    lines = [f"{printable(report.file, 1000)}: {'not usable' if report.errors else 'usable'} as a {report.role}"]
    for subject, said in report.summary.items():
        for number, line in enumerate(said):
            lines.append(f"  {subject if number == 0 else '':{_COLUMN}}{line}")
    errors = [
        line
        for error in report.errors
        for line in (str(error), *(f"    | {text}" for text in _offending(error, report)))
    ]
    for what, found in (("notes", report.notes), ("warnings", report.warnings), ("errors", errors)):
        if found:
            lines.append(f"{_COLOURS[what]}{what}:{_PLAIN}" if colour else f"{what}:")
            lines += [f"  {line}" for line in found]
    return "\n".join(lines) + "\n"


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "file": report.file,
        "role": report.role,
        "usable": not report.errors,
        "summary": report.summary,
        "notes": report.notes,
        "warnings": report.warnings,
        "errors": [
            {
                "file": error.file,
                "line": error.line,
                "text": "".join(_offending(error, report)),
                "problem": error.problem,
                "fix": error.fix,
            }
            for error in report.errors
        ],
    }
