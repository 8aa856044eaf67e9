# SPDX-License-Identifier: BSD-2-Clause
"""Rows: timers, limits and keep-alive of a session, and what a server says about the session in its push."""

from __future__ import annotations

from qubes_miragevpn.config.model import ClientConfig, Common, Timers
from qubes_miragevpn.config.rows.arguments import ANY, PATH, TEXT, Arg, choice, integer, seconds
from qubes_miragevpn.config.rows.row import APPLIED, ByFirstWord, NoEffect, Refused, Repeat, Row

_DAY = 86400
_MIGRATE = NoEffect("it is for servers; write 'push \"comp-lzo no\"' for old clients")
_COMPRESSIONS = ByFirstWord({"migrate": _MIGRATE}, APPLIED)

ROWS = (
    Row(
        "setenv",
        "`UV_NAME VALUE` is told to the server if `push-peer-info` is there; `opt NAME ...` is an option that may be "
        "unknown; nothing else has an effect, since scripts are never run",
        (Arg("name", TEXT), Arg("value", ANY, optional=True)),
        Arg("word", ANY),
        client=APPLIED,
        server=NoEffect("scripts are never run", warn=False),
        repeat=Repeat.ADD,
    ),
    Row(
        "push-peer-info",
        "tell the server the `setenv UV_NAME` lines, the versions of system and TLS library, and the hardware address "
        "of the uplink; without it nothing is told about this machine but what the protocol needs",
        client=APPLIED,
        fills=(ClientConfig, "push_peer_info"),
        server=NoEffect("it is what a client does", warn=False),
    ),
    Row(
        "hand-window",
        "a handshake must end within",
        (Arg("time", seconds(1, _DAY)),),
        client=APPLIED,
        server=APPLIED,
        fills=(Timers, "hand_window"),
    ),
    Row(
        "tls-timeout",
        "first retransmission of a control packet",
        (Arg("time", seconds(1, _DAY)),),
        client=APPLIED,
        server=APPLIED,
        fills=(Timers, "tls_timeout"),
    ),
    Row(
        "tran-window",
        "an old key stays valid for",
        (Arg("time", seconds(1)),),
        client=APPLIED,
        server=APPLIED,
        fills=(Timers, "tran_window"),
    ),
    Row(
        "reneg-sec",
        "renegotiate after; with a second number at a moment between both",
        (Arg("time", seconds(0)), Arg("least", seconds(0), optional=True)),
        client=APPLIED,
        server=APPLIED,
        pushed=APPLIED,
    ),
    Row(
        "reneg-bytes",
        "renegotiate after so many bytes",
        (Arg("bytes", integer(0, 10**12 - 1)),),
        client=APPLIED,
        server=APPLIED,
        fills=(Timers, "reneg_bytes"),
    ),
    Row(
        "reneg-pkts",
        "renegotiate after so many packets",
        (Arg("packets", integer(0, 10**12 - 1)),),
        client=APPLIED,
        server=APPLIED,
        fills=(Timers, "reneg_pkts"),
    ),
    Row(
        "max-packet-size",
        "largest control packet, headers included; without `mssfix` the same for inner TCP",
        (Arg("bytes", integer(154, 2048)),),
        client=APPLIED,
        server=APPLIED,
        fills=(Common, "max_packet_size"),
        connection=True,
    ),
    Row(
        "ping",
        "send a sign of life after silence of",
        (Arg("time", seconds(0, _DAY)),),
        client=APPLIED,
        server=APPLIED,
        pushed=APPLIED,
    ),
    Row(
        "ping-restart",
        "restart when the peer is silent for",
        (Arg("time", seconds(0, _DAY)),),
        client=APPLIED,
        server=APPLIED,
        pushed=APPLIED,
    ),
    Row(
        "ping-exit",
        "stop when the peer is silent for",
        (Arg("time", seconds(0, _DAY)),),
        client=APPLIED,
        server=APPLIED,
        pushed=APPLIED,
    ),
    Row(
        "keepalive",
        "`ping` and `ping-restart` at once; a server waits twice as long and pushes both",
        (Arg("interval", seconds(1, _DAY)), Arg("timeout", seconds(1, _DAY))),
        client=APPLIED,
        server=APPLIED,
    ),
    Row(
        "session-timeout",
        "leave for good after the tunnel has worked for",
        (Arg("time", seconds(0)),),
        client=APPLIED,
        pushed=APPLIED,
        fills=(ClientConfig, "session_timeout"),
    ),
    Row(
        "inactive",
        "end when nothing was carried, or less than so many bytes, for; a VPN qube connects again",
        (Arg("time", seconds(0)), Arg("bytes", integer(0, 10**12 - 1), optional=True)),
        client=APPLIED,
        server=NoEffect("a server stays"),
        pushed=APPLIED,
    ),
    Row(
        "disable-occ",
        "do not compare settings with the other end's, nor ask for them",
        client=APPLIED,
        server=APPLIED,
        fills=(Common, "disable_occ"),
    ),
    Row(
        "single-session",
        "once it was there, let nobody be the other end again",
        None,
        client=NoEffect("it concerns tunnels between two"),
        server=NoEffect("it concerns tunnels between two"),
        point=Refused("is not supported: the other end may come again", "remove the line"),
    ),
    Row(
        "opt-verify",
        "",
        None,
        server=NoEffect("settings that differ are told, and nobody is refused for them"),
    ),
    Row(
        "replay-window",
        "how far packets may arrive out of order, and (UDP) how many seconds late; 0 seconds: however late",
        (Arg("packets", integer(1, 65536)), Arg("time", seconds(0, 600), optional=True)),
        client=APPLIED,
        server=APPLIED,
    ),
    Row(
        "replay-persist",
        "keep in this file which packets of a static key (`tls-auth`, `tls-crypt`, `secret`) were seen, so that older "
        "ones stay refused after a restart; on a plain machine",
        (Arg("file", PATH),),
        client=APPLIED,
        server=Refused("is not supported for servers, whose clients have clocks of their own", "remove the line"),
    ),
    Row(
        "push-continuation",
        "",
        (Arg("what follows", integer(1, 2)),),
        pushed=NoEffect("the parts of a reply are joined before they are read", warn=False),
    ),
    Row("peer-id", "our number at the server", (Arg("number", integer(0, 0xFFFFFF)),), pushed=APPLIED),
    Row("key-derivation", "how data keys are made", (Arg("method", choice("tls-ekm")),), pushed=APPLIED),
    Row(
        "protocol-flags",
        "what both ends will do",
        (),
        Arg("flag", choice("cc-exit", "tls-ekm", "dyn-tls-crypt", "aead-epoch")),
        pushed=APPLIED,
    ),
    Row(
        "comp-lzo",
        "framing of old compression; nothing is ever compressed on the way out",
        (Arg("how", choice("no", "yes", "adaptive"), optional=True),),
        client=APPLIED,
        server=APPLIED,
        pushed=APPLIED,
    ),
    Row(
        "compress",
        "framing of compression; nothing is ever compressed on the way out",
        (Arg("how", choice("stub", "stub-v2", "lzo", "lz4", "lz4-v2", "migrate"), optional=True),),
        client=_COMPRESSIONS,
        server=_COMPRESSIONS,
        pushed=APPLIED,
    ),
    Row(
        "allow-compression",
        "`asym`, `yes`: let in what the peer compressed; otherwise it is dropped",
        (Arg("which", choice("no", "asym", "yes")),),
        client=APPLIED,
        server=APPLIED,
    ),
)
