# SPDX-License-Identifier: BSD-2-Clause
"""Ends of the transport, as lines: whom to connect to, by which proxies, from where; or where to listen."""

from __future__ import annotations

from collections.abc import Iterator

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.model import Common, Family, HttpProxy, Listen, Local, Proto, Proxy, Remote
from qubes_miragevpn.config.quoting import line_of
from qubes_miragevpn.config.render.blocks import HIDDEN, Blocks, two_lines
from qubes_miragevpn.config.render.session import session

_FAMILIES = {Family.ANY: "", Family.IPV4: "4", Family.IPV6: "6"}


def remotes(blocks: Blocks, servers: tuple[Remote, ...], common: Common, *, bound: bool = False) -> Iterator[str]:
    """Whom to connect to; `bound`: sockets have a port of their own where nothing is said."""
    ends = {remote.local for remote in servers}
    if len(ends) == 1 and all(remote.proxy is None and remote.common is None for remote in servers):
        if bound or ends != {Local()}:
            yield from _local(*ends)
        yield from (_remote(remote) for remote in servers)
        return
    yield from _proxy_login(blocks, servers)
    for remote in servers:
        lines = [_remote(remote), *_local(remote.local), *_proxy(blocks, remote.proxy)]
        if remote.common is not None:
            lines += _differences(blocks, remote.common, common)
        yield "<connection>\n" + "\n".join(lines) + "\n</connection>"


def _proxy(blocks: Blocks, proxy: Proxy | None) -> Iterator[str]:
    if isinstance(proxy, HttpProxy):
        yield from _http_proxy(proxy)
    elif proxy is not None:
        if proxy.credentials is not None and blocks.shows:
            raise _apart("a SOCKS proxy", f"socks-proxy {proxy.host} {proxy.port} FILE")
        login = f" {HIDDEN}" if proxy.credentials else " stdin" if proxy.asks else ""
        yield line_of("socks-proxy", proxy.host, proxy.port) + login


def _proxy_login(blocks: Blocks, servers: tuple[Remote, ...]) -> Iterator[str]:
    """One password for all HTTP proxies is all that the language can say inline."""
    proxies = [remote.proxy for remote in servers if isinstance(remote.proxy, HttpProxy)]
    named = {proxy.credentials for proxy in proxies}
    if named <= {None}:
        return
    if blocks.shows and (len(named) > 1 or any("digest" not in proxy.methods for proxy in proxies)):
        raise _apart("an HTTP proxy", "http-proxy HOST PORT FILE METHOD")
    yield from (blocks.block("http-proxy-user-pass", two_lines(one), secret=True) for one in named if one)


def _differences(blocks: Blocks, own: Common, common: Common) -> Iterator[str]:
    """What a block says: what its settings say and the profile's do not."""
    said = set(blocks.wrapped(common)) | set(session(common))
    yield from (line for line in (*blocks.wrapped(own), *session(own)) if line not in said)
    if own.timers.connect_timeout != common.timers.connect_timeout:
        yield line_of("connect-timeout", own.timers.connect_timeout)


def _remote(remote: Remote) -> str:
    end = "-client" if remote.proto is Proto.TCP else ""
    return line_of("remote", remote.host, remote.port, f"{remote.proto.value}{_FAMILIES[remote.family]}{end}")


def _local(local: Local) -> Iterator[str]:
    if local.address is not None:
        yield line_of("local", local.address)
    if local.port:
        yield line_of("lport", local.port)
    if local == Local():
        yield "nobind"


def _http_proxy(proxy: HttpProxy) -> Iterator[str]:
    login = None
    if proxy.asks and proxy.eager:
        login = "stdin"
    elif proxy.asks or proxy.credentials is not None:
        login = "auto" if "basic" in proxy.methods else "auto-nct"
    yield line_of("http-proxy", proxy.host, proxy.port, login)
    if proxy.version != HttpProxy.version:
        yield line_of("http-proxy-option", "VERSION", proxy.version)
    for name, value in proxy.headers:
        yield line_of("http-proxy-option", "CUSTOM-HEADER", name, value)


def _apart(what: str, line: str) -> ConfigError:
    return ConfigError(
        f"the password of {what} cannot be written into the same file: no directive holds it",
        fix=f"take the result of --render, and write '{line}' where it stands in that, with FILE beside it",
    )


def listening(listen: Listen, *, end: str = "") -> Iterator[str]:
    """Where others are waited for."""
    yield line_of("proto", f"{listen.proto.value}{_FAMILIES[listen.family]}{end}")
    yield line_of("port", listen.port)
    if listen.address:
        yield line_of("local", listen.address)


def place(listen: Listen) -> str:
    """One of several places to listen at."""
    return line_of("local", listen.address or "*", listen.port, f"{listen.proto.value}{_FAMILIES[listen.family]}")
