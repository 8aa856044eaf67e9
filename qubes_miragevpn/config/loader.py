# SPDX-License-Identifier: BSD-2-Clause
"""Configuration text to `ClientConfig` or `ServerConfig`: lex, collect, rules, build.

No file is opened here: `read_file` is the caller's. `load_*` raise the first error; `examine_*` return all that
could be found, for a person to read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from typing import Generic, TypeVar

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.building import material, rules
from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.inner import (
    MIN_MTU_IPV6,
    DnsOptions,
    Unusable,
    demand_unicast,
    ipv4_route,
    ipv6_route,
)
from qubes_miragevpn.config.building.logins import logins
from qubes_miragevpn.config.building.remotes import ANY_UDP, DEFAULT_PORT, family_of, local_address, remotes
from qubes_miragevpn.config.building.static import own_tunnel, static
from qubes_miragevpn.config.building.trust import ALONE, Surroundings
from qubes_miragevpn.config.model import (
    ClientConfig,
    Credentials,
    Dns,
    Family,
    LandmarkRoute,
    Listen,
    Operating,
    OutputFile,
    PointClient,
    PointServer,
    PullFilter,
    Route,
    ServerConfig,
    StaticChallenge,
    StaticConfig,
)
from qubes_miragevpn.config.reading.collect import Entry, Place, Settings, collect
from qubes_miragevpn.config.reading.lexer import lex

T = TypeVar("T")


MAX_PEER_INFO = 16  # lines told; key method 2 carries 64 KiB, an honest profile has one
_PEER_INFO_NAME = re.compile(r"UV_[A-Za-z0-9_]{1,60}\Z")
_PEER_INFO_VALUE = re.compile(r"[\x20-\x7e]{0,255}\Z")
WIDEST_NETWORK, NARROWEST_NETWORK = 16, 29  # prefix lengths that openvpn's `server` takes
WIDEST_NETWORK6, NARROWEST_NETWORK6 = 64, 124  # and `server-ipv6`
NARROWEST_OF_PAIRS = 28  # the same without ``topology subnet``: the first and the last four addresses are not given
STATUS_PERIOD, METRICS_PERIOD = 60.0, 15.0  # seconds; the first is openvpn's


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
    return _examine(text, file, (read_file, surroundings), Place.CLIENT, _client)


def examine_server(
    text: bytes, *, file: str, read_file: material.ReadFile, surroundings: Surroundings = ALONE
) -> Examined[ServerConfig]:
    """Read a server's configuration and return whatever is wrong with it."""
    return _examine(text, file, (read_file, surroundings), Place.SERVER, _server)


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
            return static(each, _client(each))
        made = static(each, _client(each, waits=True))
        return replace(made, listen=_listen(settings), only=_only(each) if settings.has("remote") else ())

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
        return PointClient(_client(each), tuple(own_tunnel(each.settings)))

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
        listen = _listen(each.settings)
        return PointServer(_client(each, waits=True), tuple(own_tunnel(each.settings)), listen, _only(each))

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
    if names & {"client", "pull", "secret", "server", "server-bridge"} or ("mode", "server") in said:
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
    return ("tls-server",) in names or ("mode", "server") in names or any(name[0] == "server" for name in names)


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
    return Examined(config, tuple(findings.warnings), tuple(findings.errors), tuple(findings.notes))


# --- client ---------------------------------------------------------------------------------------------


def _client(builder: Builder, *, waits: bool = False) -> ClientConfig:
    """`waits`: the other end comes to us."""
    settings = builder.settings
    login = settings.last("auth-user-pass")
    routes = _routes(builder)
    common = builder.common(server=waits)
    return ClientConfig(
        common=common,
        remotes=() if waits else remotes(builder, common),
        auth_user_pass=login is not None,
        credentials=_credentials(builder, login),
        static_challenge=_static_challenge(settings),
        username=_username(builder, login),
        routes=tuple(route for route in routes if isinstance(route, Route)),
        landmark_routes=tuple(route for route in routes if isinstance(route, LandmarkRoute)),
        around=builder.surroundings.around,
        redirect=_flags(builder, "redirect-gateway"),
        redirect_private=_flags(builder, "redirect-private"),
        dns=_dns(builder),
        pull_filters=tuple(PullFilter(*entry.args) for entry in settings.all("pull-filter")),
        peer_info=_peer_info(builder),
        replay_persist=_replay_persist(builder),
        **settings.fields(ClientConfig),
    )


def _flags(builder: Builder, name: str) -> frozenset[str] | None:
    """All flags of a directive's lines; None without a line."""
    entries = builder.settings.all(name)
    for entry in entries:
        for flag in sorted({"bypass-dhcp", "bypass-dns"} & set(entry.args)):
            builder.findings.warn(entry.warning(f"'{name} {flag}' has no effect, as with openvpn on Linux"))
    return frozenset(flag for entry in entries for flag in entry.args) if entries else None


def _peer_info(builder: Builder) -> tuple[tuple[str, str], ...]:
    """The ``UV_`` lines, of which the last of a name counts; none without ``push-peer-info``."""
    found: dict[str, str] = {}
    for entry in builder.settings.all("setenv"):
        name, value = entry.args[:2]
        if not name.startswith("UV_") or not builder.settings.has("push-peer-info"):
            continue
        if not _PEER_INFO_NAME.match(name) or not _PEER_INFO_VALUE.match(value or ""):
            builder.findings.warn(entry.warning("this cannot be told to the server"))
        elif name in found or len(found) < MAX_PEER_INFO:
            found[name] = value or ""
    return tuple(found.items())


def _replay_persist(builder: Builder) -> str:
    entry = builder.settings.last("replay-persist")
    if entry is None:
        return ""
    if not builder.surroundings.around and not builder.settings.has("secret"):
        raise entry.error("'replay-persist' is for plain machines: a VPN qube keeps no such file", "remove the line")
    return str(entry.args[0])


def _static_challenge(settings: Settings) -> StaticChallenge | None:
    entry = settings.last("static-challenge")
    if entry is None:
        return None
    text, echo, form = entry.args
    return StaticChallenge(printable(text), bool(echo), concat=form == "concat")


def _credentials(builder: Builder, login: Entry | None) -> Credentials | None:
    if login is None or (login.block is None and login.args[0] in (None, "stdin")):
        return None
    return material.credentials(login, builder.read_file)


def _username(builder: Builder, login: Entry | None) -> str | None:
    """The user name of a file that holds nothing else: only the password is asked for, as openvpn does."""
    if login is None or (login.block is None and login.args[0] in (None, "stdin")):
        return None
    return material.username(login, builder.read_file)


def _routes(builder: Builder) -> tuple[Route | LandmarkRoute, ...]:
    settings, findings = builder.settings, builder.findings
    routes: list[Route | LandmarkRoute] = []
    for name, make in (("route", ipv4_route), ("route-ipv6", ipv6_route)):
        for entry in settings.all(name):
            try:
                routes.append(make(*entry.args, around=builder.surroundings.around))
            except Unusable as error:
                findings.warn(entry.warning(f"'{name}' has no effect: {error}"))
    return tuple(routes)


def _dns(builder: Builder) -> Dns:
    settings, findings = builder.settings, builder.findings
    options = DnsOptions(whole=builder.surroundings.around)
    for name, take in (("dhcp-option", options.dhcp_option), ("dns", options.dns)):
        for entry in settings.all(name):
            try:
                take(*entry.args)
            except Unusable as error:
                findings.warn(entry.warning(f"'{name} {entry.args[0]}' has no effect: {error}"))
    return options.result()


# --- server ---------------------------------------------------------------------------------------------


def _server(builder: Builder) -> ServerConfig:
    settings = builder.settings
    entry = settings.last("server")
    assert entry is not None  # the rules have seen to it
    keepalive = settings.last("keepalive")
    said = () if keepalive is None else (f"ping {keepalive.args[0]:g}", f"ping-restart {keepalive.args[1]:g}")
    common = builder.common(server=True)
    return ServerConfig(
        common=common,
        listen=_listen(settings),
        network=_network(entry, settings.value("topology", "subnet")),
        network6=_network6(settings.last("server-ipv6"), common.tun_mtu),
        push=(*said, *(pushed.args[0] for pushed in settings.all("push"))),
        operating=_operating(settings),
        login=logins(settings, builder.read_file, common.timers.reneg_sec),
        **settings.fields(ServerConfig),
    )


def _operating(settings: Settings) -> Operating:
    def file(name: str, period: float) -> OutputFile | None:
        entry = settings.last(name)
        return None if entry is None else OutputFile(entry.args[0], entry.args[1] or period)

    return Operating(
        status=file("status", STATUS_PERIOD),
        metrics=file("metrics", METRICS_PERIOD),
        management=settings.value("management"),
        **settings.fields(Operating),
    )


def _only(builder: Builder) -> tuple[IPv4Address | IPv6Address, ...]:
    """The addresses that ``remote`` names, for the end that waits; a name would have to be looked up."""
    found = []
    for entry in builder.settings.all("remote"):
        try:
            found.append(ip_address(entry.args[0]))
        except ValueError:
            waiting = "'remote' names no address, and this end waits: whoever is authenticated may come from anywhere"
            builder.findings.warn(entry.warning(waiting))
            return ()
    return tuple(found)


def _network(entry: Entry, topology: str) -> IPv4Network:
    address, length, _ = entry.args
    narrowest = NARROWEST_NETWORK if topology == "subnet" else NARROWEST_OF_PAIRS
    if not WIDEST_NETWORK <= length <= narrowest:
        raise entry.error(
            f"the network of 'server' must be from /{WIDEST_NETWORK} to /{narrowest}",
            "write 'server 10.8.0.0 255.255.255.0'",
        )
    network = IPv4Network((address, length), strict=False)
    if network.network_address != address:
        raise entry.error(
            f"{address} is not the first address of its network",
            f"write 'server {network.network_address} {network.netmask}'",
        )
    if network.is_multicast or network.is_loopback or network.is_reserved or network.is_unspecified:
        raise entry.error("these addresses cannot be given to clients", "write 'server 10.8.0.0 255.255.255.0'")
    return network


def _network6(entry: Entry | None, mtu: int) -> IPv6Network | None:
    if entry is None:
        return None
    if mtu < MIN_MTU_IPV6:
        raise entry.error(f"'tun-mtu {mtu}' is too small for IPv6", f"write 'tun-mtu {MIN_MTU_IPV6}' or more")
    given: IPv6Interface = entry.args[0]
    network, example = given.network, "write 'server-ipv6 fd42:8::/64'"
    if not WIDEST_NETWORK6 <= network.prefixlen <= NARROWEST_NETWORK6:
        wide = f"the network of 'server-ipv6' must be from /{WIDEST_NETWORK6} to /{NARROWEST_NETWORK6}"
        raise entry.error(wide, example)
    if network.network_address != given.ip:
        raise entry.error(f"{given.ip} is not the first address of its network", f"write 'server-ipv6 {network}'")
    try:
        demand_unicast(network.network_address + 1)
    except Unusable as error:
        raise entry.error(f"these addresses cannot be given to clients: {error}", example) from None
    return network


def _listen(settings: Settings) -> Listen:
    word = settings.value("proto", ANY_UDP)
    entry, bind = settings.last("local"), settings.last("bind")
    address, family = "", word.family
    if entry is not None:
        address = str(local_address(entry))
        family = family_of(address, word, entry)
    if bind is not None and bind.args[0] == "ipv6only":
        if family is Family.IPV4:
            raise bind.error("'bind ipv6only' contradicts the protocol or the local address", "keep one of them")
        family = Family.IPV6
    return Listen(address, settings.value("lport") or settings.value("port") or DEFAULT_PORT, word.proto, family)
