# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn check FILE...`: say what a configuration will do, what is doubtful in it, and what is wrong.

Nothing is connected to and nothing is changed; the files that the configuration names are read, and never shown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.cli import logs

if TYPE_CHECKING:
    from qubes_miragevpn.config.loader import Examined
    from qubes_miragevpn.config.model import ClientConfig, ControlWrap, Remote, Route, ServerConfig

T = TypeVar("T", "ClientConfig", "ServerConfig")

_COLUMN = 18
_COLOURS = {"warnings": "\x1b[33m", "errors": "\x1b[31m"}
_PLAIN = "\x1b[0m"


@dataclass
class Report:
    """What is said about one file; `summary` has a heading and one or more lines for each subject."""

    file: str
    role: str
    summary: dict[str, list[str]] = field(default_factory=dict)
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
    parser.add_argument("--json", action="store_true", help="write a JSON list, one object per file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check every file, print the reports, return the exit code of the worst."""
    reports = [check(Path(file), arguments.role) for file in arguments.files]
    if arguments.json:
        print(json.dumps([_as_json(report) for report in reports], indent=2))
    else:
        print("\n".join(_as_text(report, colour=logs.coloured(sys.stdout)) for report in reports), end="")
    if any(report.errors for report in reports):
        return ExitCode.CONFIG
    if arguments.strict and any(report.warnings for report in reports):
        return ExitCode.WARNINGS
    return ExitCode.OK


def check(path: Path, role: str | None) -> Report:
    """Read one file in `role` (None: find out) and report."""
    from qubes_miragevpn.config import loader
    from qubes_miragevpn.runtime.files import profile_reader, read_bounded

    try:
        text = read_bounded(path)
    except OSError as error:
        unreadable = ConfigError(f"cannot be read: {error.strerror or error}", file=str(path))
        return Report(str(path), role or "client", errors=[unreadable])
    role = role or ("server" if loader.looks_like_server(text) else "client")
    report = Report(str(path), role)
    read_file = profile_reader(path.parent, confined=False)
    if role == "server":
        _tell(report, loader.examine_server(text, file=str(path), read_file=read_file), _server)
    else:
        _tell(report, loader.examine_client(text, file=str(path), read_file=read_file), _client)
    return report


def _tell(report: Report, examined: Examined[T], summary: Callable[[T], dict[str, list[str]]]) -> None:
    report.warnings += examined.warnings
    report.errors += examined.errors
    if examined.config is not None:
        report.errors += _tls_errors(examined.config, report)
        report.summary = summary(examined.config)


def _tls_errors(config: ClientConfig | ServerConfig, report: Report) -> list[ConfigError]:
    """What the TLS library says about certificates and key (a key of another certificate, a cut one)."""
    from qubes_miragevpn.protocol.control.tls import make_context

    common = config.common
    try:
        make_context(common.identity, common.peer, common.tls, common.choices, server=report.role == "server")
    except ConfigError as error:
        return [ConfigError(error.problem, file=report.file, fix=error.fix)]
    return []


# --- what it will do ------------------------------------------------------------------------------------


def _client(config: ClientConfig) -> dict[str, list[str]]:
    said = {"servers": [_remote(remote) for remote in config.remotes]}
    if len(config.remotes) > 1:
        said["order"] = ["random" if config.remote_random else "as listed"]
    said |= {**_common(config), "log in": _login(config)}
    routes = [_route(route) for route in config.routes]
    if config.redirect is not None:
        routes.insert(
            0, "everything into the tunnel" + (f" ({' '.join(sorted(config.redirect))})" * bool(config.redirect))
        )
    if config.route_nopull:
        routes.append("the server's routes and DNS are not taken")
    said["routes"] = routes or ["those that the server pushes"]
    dns = [str(server) for server in config.dns.servers] + [f"search {name}" for name in config.dns.search]
    said["DNS"] = dns or ["what the server pushes"]
    return said


def _server(config: ServerConfig) -> dict[str, list[str]]:
    listen = config.listen
    where = listen.address or {"ipv4": "every IPv4 address", "ipv6": "every IPv6 address"}.get(
        listen.family.value, "every address"
    )
    several = "several with one name" if config.duplicate_cn else "one for each name"
    among = "reach each other" if config.client_to_client else "do not reach each other"
    return {
        "listens on": [f"{where} port {listen.port}, {listen.proto.value}"],
        "addresses": [f"{config.network}, the first for the server"],
        "clients": [f"at most {config.max_clients}, {several}; they {among}"],
        **_common(config),
        "pushes": list(config.push) or ["nothing but addresses"],
    }


def _common(config: ClientConfig | ServerConfig) -> dict[str, list[str]]:
    common = config.common
    newest = f" to {_version(common.tls.maximum)}" if common.tls.maximum else " or newer"
    size = f"mssfix {common.mssfix}" if common.mssfix else "mssfix off"
    fallback = f" (fallback {common.data_ciphers_fallback})" if common.data_ciphers_fallback else ""
    return {
        "control channel": [_wrap(config.common.wrap), f"TLS {_version(common.tls.minimum)}{newest}"],
        "peer must have": _peer(config),
        "data ciphers": [", ".join(common.data_ciphers) + fallback],
        "keep-alive": [_keepalive(config)],
        "interface": [f"{common.dev}, MTU {common.tun_mtu}, {size}"],
    }


def _wrap(wrap: ControlWrap) -> str:
    from qubes_miragevpn.config.model import TlsAuth, TlsCrypt, TlsCryptV2Client, TlsCryptV2Server

    match wrap:
        case TlsCrypt():
            return "tls-crypt: encrypted and authenticated by a shared key"
        case TlsCryptV2Client():
            return "tls-crypt-v2: encrypted and authenticated by a key of this client's own"
        case TlsCryptV2Server(beside=beside):
            return "tls-crypt-v2: encrypted and authenticated by a key of each client's own" + (
                "" if beside is None else f"; without one, {_wrap(beside)}"
            )
        case TlsAuth(direction=direction, digest=digest):
            shown = "no direction" if direction is None else f"direction {direction}"
            return f"tls-auth: authenticated by a shared key ({digest}, {shown})"
        case _:
            return "without a shared key"


def _peer(config: ClientConfig | ServerConfig) -> list[str]:
    peer = config.common.peer
    said = []
    if peer.ca_pem:
        count = peer.ca_pem.count(b"-----BEGIN CERTIFICATE-----")
        said.append("a certificate under the profile's CA" + (f" certificates ({count})" if count > 1 else ""))
    if peer.fingerprints:
        said.append(f"one of {len(peer.fingerprints)} certificate fingerprints")
    if peer.remote_cert_tls:
        said.append(f"a {peer.remote_cert_tls}'s certificate")
    if peer.name:
        what = {"subject": "the subject", "name": "the name", "name-prefix": "a name that begins with"}[
            peer.name.type.value
        ]
        said.append(f"{what} '{printable(peer.name.expected, 255)}'")
    return said


def _login(config: ClientConfig) -> list[str]:
    said = ["with the profile's certificate"] if config.common.identity else []
    if config.auth_user_pass:
        source = "from the profile" if config.credentials else "asked for"
        said.append(f"with user name and password, {source}")
    return said


def _keepalive(config: ClientConfig | ServerConfig) -> str:
    timers = config.common.timers
    said = [f"a sign of life after {timers.ping:g} s"] if timers.ping else []
    if timers.ping_restart:
        what = "the client is dropped" if not hasattr(config, "remotes") else "connect again"
        said.append(f"{what} after {timers.ping_restart:g} s of silence")
    if timers.ping_exit:
        said.append(f"end after {timers.ping_exit:g} s of silence")
    return "; ".join(said) or "off"


def _remote(remote: Remote) -> str:
    family = f" over {remote.family.value}" if remote.family.value != "any" else ""
    return f"{remote.host} port {remote.port}, {remote.proto.value}{family}{_proxy(remote)}"


def _proxy(remote: Remote) -> str:
    from qubes_miragevpn.config.model import HttpProxy

    proxy = remote.proxy
    if proxy is None:
        return ""
    kind = "HTTP" if isinstance(proxy, HttpProxy) else "SOCKS5"
    login = " with a login" if proxy.credentials is not None else ""
    return f", through the {kind} proxy {proxy.host} port {proxy.port}{login}"


def _route(route: Route) -> str:
    return f"{route.network}" + (f" by {route.gateway}" if route.gateway else "")


def _version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


# --- forms ----------------------------------------------------------------------------------------------


def _as_text(report: Report, *, colour: bool) -> str:
    lines = [f"{printable(report.file, 1000)}: {'not usable' if report.errors else 'usable'} as a {report.role}"]
    for subject, said in report.summary.items():
        for number, line in enumerate(said):
            lines.append(f"  {subject if number == 0 else '':{_COLUMN}}{line}")
    for what, found in (("warnings", report.warnings), ("errors", [str(error) for error in report.errors])):
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
        "warnings": report.warnings,
        "errors": [
            {"file": error.file, "line": error.line, "problem": error.problem, "fix": error.fix}
            for error in report.errors
        ],
    }
