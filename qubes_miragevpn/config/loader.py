# SPDX-License-Identifier: BSD-2-Clause
"""Configuration text to `ClientConfig` or `ServerConfig`: lex, collect, rules, build.

No file is opened here: `read_file` is the caller's. `load_*` raise the first error; `examine_*` return all that
could be found, for a person to read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.building import material, rules
from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.roles.client import client
from qubes_miragevpn.config.building.roles.listening import listen, only
from qubes_miragevpn.config.building.roles.server import server
from qubes_miragevpn.config.building.roles.static import own_tunnel, static
from qubes_miragevpn.config.building.trust import ALONE, Surroundings
from qubes_miragevpn.config.model import ClientConfig, PointClient, PointServer, ServerConfig, StaticConfig
from qubes_miragevpn.config.reading.collect import Place, collect
from qubes_miragevpn.config.reading.lexer import lex

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A configuration that can be used, and what its author should know."""

    config: T
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Examined(Generic[T]):
    """All that can be said about a configuration; `config` is None when there are errors."""

    config: T | None
    warnings: tuple[str, ...]
    errors: tuple[ConfigError, ...]
    notes: tuple[str, ...] = ()  # options without effect here, whose absence nobody will miss
    places: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # file and line of each directive that counts


def load_client(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Loaded[ClientConfig]:
    """Read a client profile. `file` names it in messages; `read_file(path)` may raise OSError. Raises `ConfigError`."""
    return _loaded(examine_client(text, file=file, read_file=read_file, surroundings=surroundings))


def load_server(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Loaded[ServerConfig]:
    """Read a server's configuration; otherwise as `load_client`."""
    return _loaded(examine_server(text, file=file, read_file=read_file, surroundings=surroundings))


def examine_client(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Examined[ClientConfig]:
    """Read a client profile and return whatever is wrong with it."""
    return _examine(text, file, (read_file, surroundings), Place.CLIENT, client)


def examine_server(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Examined[ServerConfig]:
    """Read a server's configuration and return whatever is wrong with it."""
    return _examine(text, file, (read_file, surroundings), Place.SERVER, server)


def load_static(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Loaded[StaticConfig]:
    """Read a file of the static key mode; otherwise as `load_client`."""
    return _loaded(examine_static(text, file=file, read_file=read_file, surroundings=surroundings))


def examine_static(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Examined[StaticConfig]:
    """Read a file of the static key mode and return whatever is wrong with it."""

    def build(each: Builder) -> StaticConfig:
        settings = each.settings
        proto = settings.value("proto")
        waits = not (settings.has("remote") or settings.has("connection"))
        if not waits and (proto is None or proto.end != "server"):
            return static(each, client(each))
        made = static(each, client(each, waits=True))
        return replace(made, listen=listen(settings), only=only(each) if settings.has("remote") else ())

    return _examine(text, file, (read_file, surroundings), Place.STATIC, build)


def load_point_client(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Loaded[PointClient]:
    """Read a file of a TLS tunnel between two, of the end that connects; otherwise as `load_client`."""
    return _loaded(examine_point_client(text, file=file, read_file=read_file, surroundings=surroundings))


def examine_point_client(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Examined[PointClient]:
    """Read such a file and return whatever is wrong with it."""

    def build(each: Builder) -> PointClient:
        return PointClient(client(each), tuple(own_tunnel(each.settings)))

    return _examine(text, file, (read_file, surroundings), Place.CONNECTS, build)


def load_point_server(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Loaded[PointServer]:
    """Read a file of a TLS tunnel between two, of the end that waits; otherwise as `load_client`."""
    return _loaded(examine_point_server(text, file=file, read_file=read_file, surroundings=surroundings))


def examine_point_server(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Examined[PointServer]:
    """Read such a file and return whatever is wrong with it."""

    def build(each: Builder) -> PointServer:
        connecting, tunnel = client(each, waits=True), tuple(own_tunnel(each.settings))
        return PointServer(connecting, tunnel, listen(each.settings), only(each))

    return _examine(text, file, (read_file, surroundings), Place.WAITS, build)


def looks_between_two(text: bytes, surroundings: Surroundings = ALONE) -> str:
    """Which end of a TLS tunnel between two a configuration is: "connects", "waits", or "" for neither."""
    try:
        said = {(directive.name, *directive.words[:1]) for directive in lex(text, file="")}
    except ConfigError:
        return ""
    words = surroundings.command_line.words
    said |= {(word.removeprefix("--"),) for word in words if word.startswith("--")}
    names = {each[0] for each in said}
    if names & {"client", "pull", "secret", "server", "server-bridge", "server-ipv6"} or ("mode", "server") in said:
        return ""
    return "connects" if "tls-client" in names else "waits" if "tls-server" in names else ""


def looks_static(text: bytes, surroundings: Surroundings = ALONE) -> bool:
    """Whether a configuration is one of the static key mode, for those who speak that as well."""
    try:
        names = {directive.name for directive in lex(text, file="")}
    except ConfigError:
        return False
    return "secret" in names or "--secret" in surroundings.command_line.words


def looks_like_server(text: bytes) -> bool:
    """Whether a text of unknown kind is a server's configuration rather than a client's."""
    try:
        names = {(directive.name, *directive.words[:1]) for directive in lex(text, file="")}
    except ConfigError:
        return False
    serving = {("tls-server",), ("mode", "server")}
    return bool(serving & names) or any(name[0] in ("server", "server-bridge", "server-ipv6") for name in names)


def _loaded(examined: Examined[T]) -> Loaded[T]:
    if examined.config is None:
        raise examined.errors[0]
    return Loaded(examined.config, examined.warnings)


def _examine(
    text: bytes,
    file: str,
    offered: tuple[material.ReadFile, Surroundings],
    place: Place,
    build: Callable[[Builder], T],
) -> Examined[T]:
    read_file, surroundings = offered
    settings, findings = collect(
        text, file=file, place=place, read_file=read_file, command_line=surroundings.command_line
    )
    if not findings.errors:
        rules.examine(settings, place, file, findings)
    config = None
    if not findings.errors:
        try:
            config = build(Builder(settings, read_file, findings, surroundings))
        except ConfigError as error:
            findings.errors.append(error)
    places = {name: (entries[-1].file, entries[-1].line) for name, entries in settings.entries.items()}
    return Examined(config, tuple(findings.warnings), tuple(findings.errors), tuple(findings.notes), places)
