# SPDX-License-Identifier: BSD-2-Clause
"""Rows: proxies on the way to the server, and what the own end of the socket is bound to."""

from __future__ import annotations

import re

from qubes_miragevpn.config.model import Common
from qubes_miragevpn.config.rows.arguments import DEVICE, HOST, PATH, PORT, PROTO, TEXT, Arg, Kind, choice, integer
from qubes_miragevpn.config.rows.row import APPLIED, NoEffect, Refused, Repeat, Row

MAX_HEADERS = 10  # of our own in a request to a proxy (OpenVPN's MAX_CUSTOM_HTTP_HEADER)
DEFAULT_SOCKS_PORT = 1080
MAX_PLACES = 16  # where one server listens; each is a socket

_LOCAL = Kind("an address, or '*'", lambda word: word if word == "*" else HOST.parse(word))

_RETRY = NoEffect("a proxy that fails is tried again like any remote: see 'connect-retry'", warn=False)
_TIMEOUT = NoEffect("a proxy has as long as the server: see 'connect-timeout'")
_NO_PROXY = Refused("is a client's", "remove the line")


def _mark(word: str) -> int:
    if not re.fullmatch(r"0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,10}", word) or not 0 <= int(word, 0) <= 0xFFFFFFFF:
        raise ValueError
    return int(word, 0)


ROWS = (
    Row(
        "http-proxy",
        "reach the server through an HTTP proxy (TCP only); log in from a file, with what the user is asked for "
        "(`stdin`), or as the proxy wants it (`auto`; `auto-nct`: never with the password in clear); the user is asked "
        "then if there is no `http-proxy-user-pass`",
        (
            Arg("host", HOST),
            Arg("port", PORT),
            Arg("login", PATH, optional=True),
            Arg("method", choice("none", "basic", "digest"), optional=True),
        ),
        client=APPLIED,
        server=_NO_PROXY,
        connection=True,
        secret=True,
    ),
    Row(
        "http-proxy-user-pass",
        "user name and password for the HTTP proxy; `stdin`: the user is asked",
        (Arg("file", PATH),),
        client=APPLIED,
        server=_NO_PROXY,
        block=True,
        secret=True,
    ),
    Row(
        "http-proxy-option",
        "`VERSION 1.0` or `1.1`, `AGENT` text, `CUSTOM-HEADER` name text",
        (Arg("what", choice("VERSION", "AGENT", "CUSTOM-HEADER")), Arg("value", TEXT)),
        Arg("text", TEXT),
        client=APPLIED,
        server=_NO_PROXY,
        connection=True,
        repeat=Repeat.ADD,
        limit=MAX_HEADERS + 2,
        secret=True,
    ),
    Row("http-proxy-retry", "", None, client=_RETRY, server=_NO_PROXY, connection=True),
    Row("http-proxy-timeout", "", None, client=_TIMEOUT, server=_NO_PROXY, connection=True),
    Row(
        "socks-proxy",
        "reach the server through a SOCKS5 proxy, by TCP or UDP; log in from a file, or with what the user is asked "
        "for (`stdin`)",
        (Arg("host", HOST), Arg("port", PORT, optional=True), Arg("login", PATH, optional=True)),
        client=APPLIED,
        server=_NO_PROXY,
        connection=True,
        secret=True,
    ),
    Row("socks-proxy-retry", "", None, client=_RETRY, server=_NO_PROXY, connection=True),
    Row(
        "local",
        "address to listen on, or that a client's socket has; a server of many listens at each (`*`: every address), "
        "with a port and a protocol of its own if they are given",
        (Arg("address", _LOCAL), Arg("port", PORT, optional=True), Arg("protocol", PROTO, optional=True)),
        client=APPLIED,
        server=APPLIED,
        connection=True,
        repeat=Repeat.ADD,
        limit=MAX_PLACES,
    ),
    Row("lport", "local port; 0 a free one", (Arg("port", integer(0, 65535)),), client=APPLIED, server=APPLIED,
        connection=True),
    Row("nobind", "leave the local address and port to the system", client=APPLIED, connection=True),
    Row(
        "bind",
        "bind to the local address and port; `ipv6only`: a server takes no IPv4",
        (Arg("family", choice("ipv6only"), optional=True),),
        client=NoEffect("a client's socket is bound when 'local' or 'lport' says to what", warn=False),
        server=APPLIED,
    ),
    Row(
        "bind-dev",
        "the interface that the socket uses, whatever the routes say",
        (Arg("interface", DEVICE),),
        client=APPLIED,
        server=APPLIED,
        fills=(Common, "bind_dev"),
    ),
    Row(
        "mark",
        "mark of the socket's packets, for policy routing; in a VPN qube the firewall's own mark takes its place",
        (Arg("mark", Kind("a number from 0 to 0xffffffff", _mark)),),
        client=APPLIED,
        server=APPLIED,
        fills=(Common, "mark"),
    ),
)  # fmt: skip
