# SPDX-License-Identifier: BSD-2-Clause
"""Rows: which role, which device, whom to connect to and how."""

from __future__ import annotations

from qubes_miragevpn.config.model import ClientConfig, Common, ServerConfig, Timers
from qubes_miragevpn.config.rows.arguments import (
    DEVICE,
    HOST,
    PATH,
    PORT,
    PROTO,
    Arg,
    Kind,
    choice,
    either,
    integer,
    seconds,
)
from qubes_miragevpn.config.rows.row import APPLIED, ByFirstWord, NoEffect, Refused, Repeat, Row


def _mssfix_size(word: str) -> int:
    """0 switches off; otherwise at least what openvpn takes (TLS_CHANNEL_MTU_MIN)."""
    size = int(integer(0, 65535).parse(word))
    if 0 < size < 154:
        raise ValueError
    return size


ROWS = (
    Row("client", "the client role: `tls-client` and `pull`", client=APPLIED),
    Row(
        "config",
        "read another file in this place; its paths count from where it lies",
        (Arg("file", PATH),),
        client=APPLIED,
        server=APPLIED,
        repeat=Repeat.ADD,
    ),
    Row("tls-client", "TLS client; without `pull` the other end is an equal", client=APPLIED),
    Row("pull", "take options from the server", client=APPLIED),
    Row("tls-server", "TLS server; without `mode server` for one other end", server=APPLIED, point=APPLIED),
    Row(
        "mode",
        "`server`: serve several clients",
        (Arg("role", choice("server", "p2p")),),
        client=ByFirstWord(
            {"p2p": NoEffect("it is what a client does", warn=False)},
            Refused("makes this a server's configuration", "remove the line, or run it with `miragevpn server`"),
        ),
        server=ByFirstWord({"server": APPLIED}, Refused("is not supported with 'p2p'", "write 'mode server'")),
    ),
    Row(
        "dev",
        "name of the interface; `tun` and `tap` (Ethernet; on a plain host) take a free one",
        (Arg("name", DEVICE),),
        client=APPLIED,
        server=APPLIED,
    ),
    Row(
        "dev-type",
        "kind of the interface",
        (Arg("type", choice("tun", "tap")),),
        client=APPLIED,
        server=APPLIED,
    ),
    Row("proto", "outer transport", (Arg("protocol", PROTO),), client=APPLIED, server=APPLIED, connection=True),
    Row(
        "remote",
        "a server; several are tried in turn",
        (Arg("host", HOST), Arg("port", PORT, optional=True), Arg("protocol", PROTO, optional=True)),
        client=APPLIED,
        connection=True,
        repeat=Repeat.ADD,
    ),
    Row(
        "proto-force",
        "only try the remotes of this transport",
        (Arg("transport", choice("udp", "tcp")),),
        client=APPLIED,
    ),
    Row("connection", "a server with settings of its own", client=APPLIED, block=True, repeat=Repeat.ADD),
    Row(
        "port",
        "port of the remote, or to listen on",
        (Arg("port", PORT),),
        client=APPLIED,
        server=APPLIED,
        connection=True,
    ),
    Row("rport", "port of the remote", (Arg("port", PORT),), client=APPLIED, connection=True),
    Row("remote-random", "shuffle the remotes", client=APPLIED, fills=(ClientConfig, "remote_random")),
    Row(
        "remote-random-hostname",
        "look up a random name below the remote's, so that no cache answers",
        client=APPLIED,
        fills=(ClientConfig, "remote_random_hostname"),
    ),
    Row(
        "resolv-retry",
        "look a name that is not known up again every five seconds, for so long, before the next remote is tried; "
        "`infinite`, or nothing: only on every pass over the remotes",
        (Arg("how long", either("infinite", 0.0, seconds(0, 10**9))),),
        client=APPLIED,
        fills=(Timers, "resolv_retry"),
        server=NoEffect("a server looks up no remote", warn=False),
    ),
    Row(
        "connect-retry",
        "pause between two passes over the remotes, and its upper limit",
        (Arg("pause", seconds(0, 86400)), Arg("limit", seconds(0, 86400), optional=True)),
        client=APPLIED,
        connection=NoEffect("the pause follows a pass over all remotes; write it outside of the block"),
    ),
    Row(
        "connect-retry-max",
        "passes over the remotes before giving up",
        (Arg("passes", either("infinite", 0, integer(0, 10**6))),),
        client=APPLIED,
        fills=(Timers, "connect_retry_max"),
    ),
    Row(
        "connect-timeout",
        "a remote must answer within",
        (Arg("time", seconds(1, 86400)),),
        client=APPLIED,
        fills=(Timers, "connect_timeout"),
        aliases=("server-poll-timeout",),
        connection=True,
    ),
    Row(
        "float",
        "follow the other end to another address after an authentic packet from there (UDP); in a VPN qube the "
        "firewall lets nothing in but answers of the address that was connected to, and a change of it reconnects",
        client=APPLIED,
        server=NoEffect("a server follows its clients anyway", warn=False),
        fills=(Common, "floats"),
        connection=True,
    ),
    Row(
        "sndbuf",
        "send buffer of the socket",
        (Arg("bytes", integer(0, 1 << 26)),),
        client=APPLIED,
        server=APPLIED,
        pushed=NoEffect("socket buffers are the operator's"),
        fills=(Common, "sndbuf"),
    ),
    Row(
        "rcvbuf",
        "receive buffer of the socket",
        (Arg("bytes", integer(0, 1 << 26)),),
        client=APPLIED,
        server=APPLIED,
        pushed=NoEffect("socket buffers are the operator's"),
        fills=(Common, "rcvbuf"),
    ),
    Row(
        "explicit-exit-notify",
        "tell the peer when leaving (UDP), so many times, one a second; at most five are sent",
        (Arg("times", integer(0, 10), optional=True),),
        client=APPLIED,
        server=APPLIED,
        pushed=APPLIED,
        connection=True,
    ),
    Row(
        "tun-mtu",
        "MTU of the TUN interface",
        (Arg("bytes", integer(576, 9000)),),
        client=APPLIED,
        server=APPLIED,
        pushed=APPLIED,
        fills=(Common, "tun_mtu"),
        connection=True,
    ),
    Row(
        "mssfix",
        "keep packets with inner TCP below this size; 0 off",
        (
            Arg("size", Kind("0, or a number from 154 to 65535", _mssfix_size), optional=True),
            Arg("meaning", choice("mtu", "fixed"), optional=True),
        ),
        client=APPLIED,
        server=APPLIED,
        pushed=NoEffect("mssfix is the operator's"),
        connection=True,
    ),
    Row(
        "fragment",
        "cut packets that would be longer than this (UDP; both ends need it)",
        (Arg("size", integer(68, 65535)), Arg("meaning", choice("mtu"), optional=True)),
        client=APPLIED,
        server=APPLIED,
        connection=True,
    ),
    Row(
        "tun-mtu-max",
        "the largest MTU that a server may push",
        (Arg("bytes", integer(576, 9000)),),
        client=APPLIED,
        server=NoEffect("a server is pushed nothing", warn=False),
        fills=(Common, "tun_mtu_max"),
    ),
    Row(
        "verb",
        "how much to log, 0 to 11",
        (Arg("level", integer(0, 11)),),
        client=APPLIED,
        server=APPLIED,
        pushed=NoEffect("the log is the operator's"),
        fills=(Common, "verb"),
    ),
    Row(
        "max-clients",
        "clients at the same time",
        (Arg("clients", integer(1, 65535)),),
        server=APPLIED,
        fills=(ServerConfig, "max_clients"),
    ),
)
