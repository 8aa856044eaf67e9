# SPDX-License-Identifier: BSD-2-Clause
"""Rows: what only a server's file holds."""

from __future__ import annotations

from qubes_miragevpn.config.model import Operating, ServerConfig
from qubes_miragevpn.config.rows.arguments import (
    DEVICE,
    IPV4,
    IPV6,
    IPV6_INTERFACE,
    NETMASK,
    PATH,
    TEXT,
    Arg,
    Kind,
    choice,
    either,
    integer,
    seconds,
)
from qubes_miragevpn.config.rows.row import APPLIED, NoEffect, Refused, Repeat, Row, without_effect

NOGW = "nogw"
MAX_PUSHED_OPTION = 255  # characters (OpenVPN's OPTION_PARM_SIZE)


MAX_NETWORKS = 4096  # of one family behind one client, however much `max-routes-per-client` lets be
_SINGLE = Refused("is for one client", "write it into his file in 'client-config-dir'")
_CONTROL = "remove the line; `miragevpn status` and the control socket take its place"


def _pushed_option(word: str) -> str:
    if not 0 < len(word) <= MAX_PUSHED_OPTION or "," in word or not word.isascii() or not word.isprintable():
        raise ValueError
    return word


_FREQUENCY = (Arg("number", integer(1, 1_000_000)), Arg("seconds", seconds(1, 86400)))

ROWS = (
    Row(
        "server",
        "addresses of the tunnel: network and netmask; the server takes the first",
        (Arg("network", IPV4), Arg("netmask", NETMASK), Arg("nopool", choice("nopool"), optional=True)),
        server=APPLIED,
    ),
    Row(
        "server-bridge",
        "`dev tap` in a bridge that is there: its gateway and netmask, and the first and the last address to give; "
        "without words clients ask a DHCP server there, with `nogw` not for a way out",
        (
            Arg("gateway", either(NOGW, NOGW, IPV4), optional=True),
            Arg("netmask", NETMASK, optional=True),
            Arg("first", IPV4, optional=True),
            Arg("last", IPV4, optional=True),
        ),
        server=APPLIED,
    ),
    Row(
        "server-ipv6",
        "IPv6 addresses of the tunnel, beside `server` or alone: network and prefix length; the server takes the first",
        (Arg("network", IPV6_INTERFACE),),
        server=APPLIED,
    ),
    Row(
        "push",
        "an option for every client",
        (Arg("option", Kind(f"one option in quotes, of at most {MAX_PUSHED_OPTION} characters", _pushed_option)),),
        client=NoEffect("a client pushes nothing"),
        server=APPLIED,
        single=APPLIED,
        repeat=Repeat.ADD,
        limit=256,
    ),
    Row(
        "nat",
        "clients go on by this interface (that of the default route) under this machine's address: nftables and "
        "forwarding are set up, and undone at the end; openvpn has no such option",
        (Arg("interface", DEVICE, optional=True),),
        server=APPLIED,
    ),
    Row(
        "ifconfig-pool",
        "first and last address to give, beside `server NETWORK NETMASK nopool` or `ifconfig`, or (`dev tap`, with a "
        "netmask) of the network of a bridge",
        (Arg("first", IPV4), Arg("last", IPV4), Arg("netmask", NETMASK, optional=True)),
        server=APPLIED,
    ),
    Row(
        "ifconfig-ipv6-pool",
        "first IPv6 address to give, beside `ifconfig-ipv6`: those of the network that follow, 65536 at most",
        (Arg("first", IPV6_INTERFACE),),
        server=APPLIED,
    ),
    Row(
        "ifconfig-pool-persist",
        "a file by which clients have the same addresses after a restart, written every so many seconds (600; 0 never)",
        (Arg("file", PATH), Arg("seconds", seconds(0, 86400), optional=True)),
        server=APPLIED,
    ),
    Row(
        "client-config-dir",
        "a directory with settings for single clients: a file with the name of each, or `DEFAULT`",
        (Arg("directory", PATH),),
        server=APPLIED,
    ),
    Row(
        "max-routes-per-client",
        "networks behind one client, or with `dev tap` Ethernet addresses, at most (256)",
        (Arg("networks", integer(1, 4096)),),
        server=APPLIED,
        fills=(ServerConfig, "max_routes_per_client"),
    ),
    Row("ccd-exclusive", "whoever has no file of his own in `client-config-dir` may not enter", server=APPLIED),
    Row("disable", "this client may not enter", server=_SINGLE, single=APPLIED),
    Row(
        "ifconfig-push",
        "the address of this client, and netmask or (`topology net30`, `p2p`) far end",
        (Arg("address", IPV4), Arg("netmask", IPV4)),
        server=_SINGLE,
        single=APPLIED,
    ),
    Row(
        "ifconfig-ipv6-push",
        "the IPv6 address of this client, and the server's where that is not by `server-ipv6`",
        (Arg("address", IPV6_INTERFACE), Arg("remote", IPV6, optional=True)),
        server=_SINGLE,
        single=APPLIED,
    ),
    Row(
        "iroute",
        "a network behind this client (not with `dev tap`); the server's machine needs a `route` for it",
        (Arg("network", IPV4), Arg("netmask", NETMASK, optional=True)),
        server=_SINGLE,
        single=APPLIED,
        repeat=Repeat.ADD,
        limit=MAX_NETWORKS,
    ),
    Row(
        "iroute-ipv6",
        "an IPv6 network behind this client (not with `dev tap`); the server's machine needs a `route-ipv6` for it",
        (Arg("network", IPV6_INTERFACE),),
        server=_SINGLE,
        single=APPLIED,
        repeat=Repeat.ADD,
        limit=MAX_NETWORKS,
    ),
    Row("push-reset", "nothing that is pushed to everybody", server=_SINGLE, single=APPLIED, repeat=Repeat.ADD),
    Row(
        "push-remove",
        "not what is pushed to everybody and begins with this text",
        (Arg("text", TEXT),),
        server=_SINGLE,
        single=APPLIED,
        repeat=Repeat.ADD,
        limit=256,
    ),
    Row(
        "connect-freq",
        "handshakes that begin in so many seconds, at the most",
        _FREQUENCY,
        server=APPLIED,
    ),
    Row(
        "connect-freq-initial",
        "first packets by UDP that are answered in so many seconds, at the most (100 in 10), a fifth of them from "
        "one address (a /64 of IPv6); one whose sender logs in does not count",
        _FREQUENCY,
        server=APPLIED,
    ),
    Row("duplicate-cn", "several clients may have one name", server=APPLIED, fills=(ServerConfig, "duplicate_cn")),
    Row("client-to-client", "clients reach each other", server=APPLIED, fills=(ServerConfig, "client_to_client")),
    Row(
        "status",
        "a file that says who is connected, written anew every so many seconds (60)",
        (Arg("file", PATH), Arg("seconds", seconds(1, 86400), optional=True)),
        client=NoEffect("ask `miragevpn status`"),
        server=APPLIED,
    ),
    Row(
        "status-version",
        "the format of that file and of the management interface: 1 to 3, as openvpn's",
        (Arg("version", integer(1, 3)),),
        client=NoEffect("ask `miragevpn status`"),
        server=APPLIED,
        fills=(Operating, "status_version"),
    ),
    Row(
        "metrics",
        "a file for Prometheus (text format, as its node exporter reads), written anew every so many seconds (15); "
        "openvpn has no such option",
        (Arg("file", PATH), Arg("seconds", seconds(1, 86400), optional=True)),
        client=NoEffect("ask `miragevpn status`"),
        server=APPLIED,
    ),
    Row(
        "management",
        "the management socket: a UNIX socket for its owner alone",
        (Arg("path", PATH), Arg("unix", choice("unix"))),
        client=Refused("is not supported", _CONTROL),
        server=APPLIED,
    ),
    Row(
        "management-hold",
        "begin to serve when the management interface says so",
        client=Refused("is not supported", _CONTROL),
        server=APPLIED,
        fills=(Operating, "management_hold"),
    ),
    Row(
        "management-log-cache",
        "lines of the log that the management interface remembers",
        (Arg("lines", integer(1, 10_000)),),
        client=Refused("is not supported", _CONTROL),
        server=APPLIED,
        fills=(Operating, "log_cache"),
    ),
    without_effect("tcp-nodelay", "TCP connections always send at once", warn=False),
    without_effect("hash-size", "tables grow by themselves", client=False, warn=False),
    without_effect("bcast-buffers", "broadcasts are not queued", client=False, warn=False),
    without_effect("tcp-queue-limit", "queues have limits of their own", client=False, warn=False),
)
