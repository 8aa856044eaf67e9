# SPDX-License-Identifier: BSD-2-Clause
"""The remotes of a client: host, port, protocol, proxy and local end of each, in the order to try them.

What a line itself says comes first, then its <connection> block, then the file, then the defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.config.building import material
from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.model import Common, Credentials, Family, HttpProxy, Local, Proto, Proxy, Remote, SocksProxy
from qubes_miragevpn.config.reading.collect import Entry, Settings
from qubes_miragevpn.config.rows.arguments import ProtoWord
from qubes_miragevpn.config.rows.proxies import DEFAULT_SOCKS_PORT, MAX_HEADERS

DEFAULT_PORT = 1194
ANY_UDP = ProtoWord(Proto.UDP, Family.ANY)

ASK = "stdin"  # in the place of a file: the user is asked
_AUTO = {"auto": frozenset({"basic", "digest"}), "auto-nct": frozenset({"digest"})}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,255}\Z")
_OWN_HEADERS = frozenset({"host", "proxy-authorization", "content-length", "transfer-encoding"})


@dataclass(frozen=True)
class _Scope:
    """Where a remote's settings come from: its block, if it has one, and the file."""

    scopes: tuple[Settings, ...]
    read_file: material.ReadFile

    def last(self, name: str) -> Entry | None:
        """The entry that counts."""
        return next(filter(None, (scope.last(name) for scope in self.scopes)), None)

    def all(self, name: str) -> tuple[Entry, ...]:
        """The entries of the innermost scope that has any."""
        return next(filter(None, (scope.all(name) for scope in self.scopes)), ())


def remotes(builder: Builder, common: Common) -> tuple[Remote, ...]:
    """Every remote of the file, whose blocks may change `common`. Raises `ConfigError`."""
    settings = builder.settings
    forced = settings.last("proto-force")
    only = None if forced is None else forced.args[0]
    found = tuple(remote for remote in _all(builder, common, only) if remote is not None)
    if forced is not None and not found:
        raise forced.error(f"'proto-force {only}' leaves no remote", "remove the line, or add such a remote")
    for name in ("http-proxy-user-pass", "http-proxy-option"):
        lost = settings.last(name)
        if lost is not None and not any(isinstance(remote.proxy, HttpProxy) for remote in found):
            raise lost.error(f"'{name}' needs 'http-proxy'", "add an 'http-proxy HOST PORT' line")
    return found


def _all(builder: Builder, common: Common, only: str | None) -> Iterator[Remote | None]:
    settings, read_file = builder.settings, builder.read_file
    blocks = settings.all("connection")
    if not blocks:
        for entry in settings.all("remote"):
            yield _remote(entry, _Scope((settings,), read_file), only)
    for block in blocks:
        inner = block.nested or Settings()
        named = inner.last("remote")
        if named is None:
            raise block.error("the <connection> block names no server", "write 'remote HOST PORT' into it")
        remote = _remote(named, _Scope((inner, settings), read_file), only)
        yield remote and replace(remote, common=builder.of_block(block, common))


def _remote(entry: Entry, scope: _Scope, only: str | None) -> Remote | None:
    """The remote of a line; None if it has another transport than `only`."""
    host, port, word = entry.args
    for settings in scope.scopes:
        word = word or settings.value("proto")
        port = port or settings.value("rport") or settings.value("port")
    word = word or ANY_UDP
    if word.end == "server":
        raise entry.error("'tcp-server' is the other end's protocol", "write 'tcp'")
    if only not in (None, word.proto.value):
        return None
    return Remote(
        host,
        port or DEFAULT_PORT,
        word.proto,
        family_of(host, word, entry),
        proxy=_proxy(scope, word.proto, entry),
        local=_local(scope, word.proto),
    )


def family_of(host: str, word: ProtoWord, entry: Entry) -> Family:
    """The family of the addresses of `host`; raises `ConfigError` if that is an address of another one."""
    try:
        family = Family.IPV4 if ip_address(host).version == 4 else Family.IPV6
    except ValueError:
        return word.family
    if word.family not in (Family.ANY, family):
        raise entry.error(
            f"{host} is no {word.family.value} address, which the protocol demands", "write 'udp' or 'tcp'"
        )
    return family


# --- the own end ----------------------------------------------------------------------------------------


def _local(scope: _Scope, proto: Proto) -> Local:
    for settings in scope.scopes:  # a block's word about binding outranks the file's
        bound = settings.last("local") or settings.last("lport")
        if settings.has("nobind"):
            if bound is not None:
                raise bound.error(f"'{bound.row.name}' contradicts 'nobind'", "keep one of them")
            return Local()
        if bound is not None:
            break
    address, port = scope.last("local"), scope.last("lport")
    number = 0 if port is None else port.args[0]
    if not number and proto is Proto.UDP and scope.last("client") is None and scope.last("pull") is None:
        # The two ends of a tunnel between two are equals: each expects the other at its known port.
        both = scope.last("port")
        number = DEFAULT_PORT if both is None else both.args[0]
    return Local(None if address is None else local_address(address), number)


def local_address(entry: Entry) -> IPv4Address | IPv6Address:
    """The address of a ``local`` line that says no more. Raises `ConfigError`."""
    if entry.args[1:] != (None, None):
        problem = "'local' with a port or a protocol is for a server of many clients"
        raise entry.error(problem, "write 'lport' and 'proto'")
    try:
        return ip_address(entry.args[0])
    except ValueError:
        raise entry.error("'local' must be an address", "write the address, or remove the line") from None


# --- proxies --------------------------------------------------------------------------------------------


def _proxy(scope: _Scope, proto: Proto, remote: Entry) -> Proxy | None:
    web, socks = _innermost(scope)
    if web is not None:
        if proto is not Proto.TCP:
            raise remote.error("an HTTP proxy carries TCP only", "write 'proto tcp', or use 'socks-proxy'")
        return _http(web, scope)
    if socks is not None:
        host, port, login = socks.args
        asks = login == ASK
        credentials = None if login is None or asks else _login(socks, login, scope)
        return SocksProxy(host, port or DEFAULT_SOCKS_PORT, credentials, asks)
    return None


def _innermost(scope: _Scope) -> tuple[Entry | None, Entry | None]:
    """The proxy that counts, HTTP or SOCKS: a block's outranks the file's; two in one place are an error."""
    for settings in scope.scopes:
        web, socks = settings.last("http-proxy"), settings.last("socks-proxy")
        if web is not None and socks is not None:
            raise socks.error("'http-proxy' and 'socks-proxy' exclude each other", "keep one of them")
        if web is not None or socks is not None:
            return web, socks
    return None, None


def _http(entry: Entry, scope: _Scope) -> HttpProxy:
    host, port, login, method = entry.args
    credentials, methods = None, frozenset({"basic", "digest"})
    asks = login == ASK or login in _AUTO
    if login in _AUTO:
        methods = _AUTO[login]
    elif login is not None:
        credentials = None if asks else _login(entry, login, scope)
        methods = frozenset({method or "basic"}) - {"none"}
    given = scope.last("http-proxy-user-pass")
    if credentials is None and given is not None:
        asks = given.block is None and given.args[0] == ASK
        credentials = None if asks else _both(given, material.credentials(given, scope.read_file))
    if not methods or (credentials is None and not asks):
        credentials, methods, asks = None, frozenset(), False
    elif "basic" in methods and credentials is not None and ":" in credentials.username:
        raise entry.error("a user name for an HTTP proxy cannot hold ':'", "is it in the right file?")
    version, headers = _options(scope)
    return HttpProxy(host, port, credentials, methods, methods == frozenset({"basic"}), version, headers, asks)


def _options(scope: _Scope) -> tuple[str, tuple[tuple[str, str], ...]]:
    version, headers = "1.0", []
    for entry in scope.all("http-proxy-option"):
        what, value, *more = entry.args
        if what == "VERSION":
            if value not in ("1.0", "1.1") or more:
                raise entry.error("the version of HTTP must be 1.0 or 1.1", "write 'http-proxy-option VERSION 1.1'")
            version = value
        elif what == "AGENT":
            headers.append(_header(entry, "User-Agent", " ".join((value, *more))))
        else:
            headers.append(_header(entry, value, " ".join(more)))
    if len(headers) > MAX_HEADERS:
        raise scope.all("http-proxy-option")[-1].error(f"there are more than {MAX_HEADERS} headers")
    return version, tuple(headers)


def _header(entry: Entry, name: str, value: str) -> tuple[str, str]:
    """A header of our own; nothing in it may end its line."""
    if not _HEADER_NAME.match(name) or not _HEADER_VALUE.match(value):
        raise entry.error("this cannot be a header", "write 'http-proxy-option CUSTOM-HEADER NAME \"TEXT\"'")
    if name.lower() in _OWN_HEADERS:
        raise entry.error("this header is the program's own", "remove the line")
    return name, value


def _login(entry: Entry, path: str, scope: _Scope) -> Credentials:
    text = material.file_content(entry, path, scope.read_file)
    return _both(entry, material.credentials(replace(entry, block=text), scope.read_file))


def _both(entry: Entry, found: Credentials | None) -> Credentials:
    if found is None:
        raise entry.error("there is no password with the user name", "write the password on the second line")
    return found
