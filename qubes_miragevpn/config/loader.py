# SPDX-License-Identifier: BSD-2-Clause
"""Configuration text to `ClientConfig` or `ServerConfig`: lex, collect, rules, build.

No file is opened here: `read_file` is the caller's. `load_*` raise the first error; `examine_*` return all that
could be found, for a person to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from typing import Generic, TypeVar

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.building import material, rules
from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.inner import DnsOptions, Unusable, ipv4_route, ipv6_route
from qubes_miragevpn.config.model import (
    ClientConfig,
    Credentials,
    Dns,
    Family,
    Listen,
    Proto,
    PullFilter,
    Remote,
    Route,
    ServerConfig,
)
from qubes_miragevpn.config.reading.collect import Entry, Findings, Place, Settings, collect
from qubes_miragevpn.config.reading.lexer import lex
from qubes_miragevpn.config.rows.arguments import ProtoWord

T = TypeVar("T")

DEFAULT_PORT = 1194
ANY_UDP = ProtoWord(Proto.UDP, Family.ANY)
WIDEST_NETWORK, NARROWEST_NETWORK = 16, 29  # prefix lengths that openvpn's `server` takes


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


def load_client(text: bytes, *, file: str, read_file: material.ReadFile) -> Loaded[ClientConfig]:
    """Read a client profile. `file` names it in messages; `read_file(path)` may raise OSError. Raises `ConfigError`."""
    return _loaded(examine_client(text, file=file, read_file=read_file))


def load_server(text: bytes, *, file: str, read_file: material.ReadFile) -> Loaded[ServerConfig]:
    """Read a server's configuration; otherwise as `load_client`."""
    return _loaded(examine_server(text, file=file, read_file=read_file))


def examine_client(text: bytes, *, file: str, read_file: material.ReadFile) -> Examined[ClientConfig]:
    """Read a client profile and return whatever is wrong with it."""
    return _examine(text, file, read_file, Place.CLIENT, _client)


def examine_server(text: bytes, *, file: str, read_file: material.ReadFile) -> Examined[ServerConfig]:
    """Read a server's configuration and return whatever is wrong with it."""
    return _examine(text, file, read_file, Place.SERVER, _server)


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
    text: bytes, file: str, read_file: material.ReadFile, place: Place, build: Callable[[Builder], T]
) -> Examined[T]:
    settings, findings = collect(text, file=file, place=place)
    if not findings.errors:
        rules.examine(settings, place, file, findings)
    config = None
    if not findings.errors:
        try:
            config = build(Builder(settings, read_file, findings))
        except ConfigError as error:
            findings.errors.append(error)
    return Examined(config, tuple(findings.warnings), tuple(findings.errors))


# --- client ---------------------------------------------------------------------------------------------


def _client(builder: Builder) -> ClientConfig:
    settings, findings = builder.settings, builder.findings
    login = settings.last("auth-user-pass")
    redirects = settings.all("redirect-gateway")
    return ClientConfig(
        common=builder.common(server=False),
        remotes=_forced(_remotes(settings), settings),
        auth_user_pass=login is not None,
        credentials=_credentials(builder, login),
        bind_port=settings.value("lport"),
        routes=_routes(settings, findings),
        redirect=frozenset(flag for entry in redirects for flag in entry.args) if redirects else None,
        dns=_dns(settings, findings),
        pull_filters=tuple(PullFilter(*entry.args) for entry in settings.all("pull-filter")),
        **settings.fields(ClientConfig),
    )


def _remotes(settings: Settings) -> tuple[Remote, ...]:
    blocks = settings.all("connection")
    if not blocks:
        return tuple(_remote(entry, settings, None) for entry in settings.all("remote"))
    remotes = []
    for block in blocks:
        inner = block.nested or Settings()
        entry = inner.last("remote")
        if entry is None:
            raise block.error("the <connection> block names no server", "write 'remote HOST PORT' into it")
        remotes.append(_remote(entry, settings, inner))
    return tuple(remotes)


def _forced(remotes: tuple[Remote, ...], settings: Settings) -> tuple[Remote, ...]:
    """Those that ``proto-force`` leaves."""
    entry = settings.last("proto-force")
    if entry is None:
        return remotes
    left = tuple(remote for remote in remotes if remote.proto.value == entry.args[0])
    if not left:
        raise entry.error(f"'proto-force {entry.args[0]}' leaves no remote", "remove the line, or add such a remote")
    return left


def _remote(entry: Entry, settings: Settings, inner: Settings | None) -> Remote:
    """What the line itself says comes first, then its block, then the file, then the defaults."""
    host, port, word = entry.args
    for scope in filter(None, (inner, settings)):
        word = word or scope.value("proto")
        port = port or scope.value("rport") or scope.value("port")
    word = word or ANY_UDP
    if word.end == "server":
        raise entry.error("'tcp-server' is the other end's protocol", "write 'tcp'")
    return Remote(host, port or DEFAULT_PORT, word.proto, _family(host, word, entry))


def _family(host: str, word: ProtoWord, entry: Entry) -> Family:
    try:
        family = Family.IPV4 if ip_address(host).version == 4 else Family.IPV6
    except ValueError:
        return word.family
    if word.family not in (Family.ANY, family):
        raise entry.error(
            f"{host} is no {word.family.value} address, which the protocol demands", "write 'udp' or 'tcp'"
        )
    return family


def _credentials(builder: Builder, login: Entry | None) -> Credentials | None:
    if login is None or (login.block is None and login.args[0] in (None, "stdin")):
        return None
    found = material.credentials(login, builder.read_file)
    if found is None:
        builder.findings.warn(login.warning("there is no password with the user name; both will be asked for"))
    return found


def _routes(settings: Settings, findings: Findings) -> tuple[Route, ...]:
    routes = []
    for name, make in (("route", ipv4_route), ("route-ipv6", ipv6_route)):
        for entry in settings.all(name):
            try:
                routes.append(make(*entry.args))
            except Unusable as error:
                findings.warn(entry.warning(f"'{name}' has no effect: {error}"))
    return tuple(routes)


def _dns(settings: Settings, findings: Findings) -> Dns:
    options = DnsOptions()
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
    return ServerConfig(
        common=builder.common(server=True),
        listen=_listen(settings),
        network=_network(entry),
        push=(*said, *(pushed.args[0] for pushed in settings.all("push"))),
        **settings.fields(ServerConfig),
    )


def _network(entry: Entry) -> IPv4Network:
    address, length, _ = entry.args
    if not WIDEST_NETWORK <= length <= NARROWEST_NETWORK:
        raise entry.error(
            f"the network of 'server' must be from /{WIDEST_NETWORK} to /{NARROWEST_NETWORK}",
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


def _listen(settings: Settings) -> Listen:
    word = settings.value("proto", ANY_UDP)
    address = settings.value("local", "")
    entry = settings.last("local")
    family = word.family
    if entry is not None:
        try:
            ip_address(address)
        except ValueError:
            raise entry.error(
                "'local' must be an address", "write the address, or remove the line to listen on all"
            ) from None
        family = _family(address, word, entry)
    return Listen(address, settings.value("lport") or settings.value("port") or DEFAULT_PORT, word.proto, family)
