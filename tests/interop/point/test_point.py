# SPDX-License-Identifier: BSD-2-Clause
"""TLS between two (`tls-client`, `tls-server` alone): no push, and what both work out alike. openvpn is one end."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from tests.interop.conftest import Bench
from tests.interop.netns import CLIENT_WIRE, SERVER_TUNNEL, SERVER_WIRE, TUN
from tests.interop.peers import OPENVPN, OURS, Peer
from tests.interop.traffic import connect, transfer

CLIENT_TUNNEL = "10.99.0.2"
SERVER_TUNNEL6, CLIENT_TUNNEL6 = "fd99::1", "fd99::2"
SIZE = 300_000


@dataclass(frozen=True)
class Row:
    """One combination; `server` and `client` are lines of one end only, `data` is what both must come to."""

    name: str
    proto: str = "udp"
    remote: bool = True  # the waiting end names the other one
    both: tuple[str, ...] = ()
    server: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    data: str = "AES-256-GCM, keys by exporter"

    def __str__(self) -> str:
        return self.name


FALLBACK = ("data-ciphers-fallback AES-256-CBC", "auth SHA256")
ROWS = [
    Row("udp-from-anywhere", remote=False, client=("nobind",)),
    Row("tcp", proto="tcp"),
    Row(
        "server-chooses",
        server=("data-ciphers CHACHA20-POLY1305:AES-128-GCM",),
        client=("data-ciphers AES-128-GCM:CHACHA20-POLY1305",),
        data="CHACHA20-POLY1305, keys by exporter",
    ),
    Row(
        "fallback",
        both=FALLBACK,
        server=("data-ciphers AES-128-GCM",),
        client=("data-ciphers CHACHA20-POLY1305",),
        data="AES-256-CBC, keys by exporter",
    ),
    Row("renewed-by-who-waits", both=("tls-crypt",), server=("reneg-sec 3",), client=("reneg-sec 0",)),
    Row("renewed-by-who-connects", both=("tls-crypt",), server=("reneg-sec 0",), client=("reneg-sec 3",)),
]


def _config(bench: Bench, row: Row, kind: str, *, server: bool) -> str:
    ends = (SERVER_TUNNEL, CLIENT_TUNNEL), (SERVER_TUNNEL6, CLIENT_TUNNEL6)
    (own, other), (own6, other6) = ends if server else (pair[::-1] for pair in ends)
    identity = bench.pki.server if server else bench.pki.client
    lines = [
        "tls-server" if server else "tls-client", f"dev {TUN}", "dev-type tun", "verb 3", "keepalive 2 10",
        f"ifconfig {own} {other}", f"ifconfig-ipv6 {own6}/64 {other6}",
        f"remote-cert-tls {'client' if server else 'server'}",
        f"proto {row.proto}4" + (f"-{'server' if server else 'client'}" if row.proto == "tcp" else ""),
        *(line for line in row.both if line != "tls-crypt"), *(row.server if server else row.client),
        *(["dh none"] if server else []), *(["disable-dco"] if kind == OPENVPN else []),
    ]  # fmt: skip
    if not server:
        lines.append(f"remote {SERVER_WIRE} 1194")
    elif row.remote and row.proto == "udp":
        lines.append(f"remote {CLIENT_WIRE} 1194")
    blocks = {"ca": bench.pki.ca, "cert": identity.certificate, "key": identity.key}
    if "tls-crypt" in row.both:
        blocks["tls-crypt"] = bench.pki.static
    return "\n".join((*lines, *(f"<{name}>\n{text.strip()}\n</{name}>" for name, text in blocks.items()))) + "\n"


def _start(bench: Bench, row: Row, server_kind: str, client_kind: str) -> tuple[Peer, Peer]:
    space = bench.wire.server
    server = Peer("waits", server_kind, "server", space, _config(bench, row, server_kind, server=True), bench.folder)
    bench.peers.append(server)
    server.wait_log(r"listening on|Listening for incoming|UDPv4 link remote")
    client = bench.client(client_kind, _config(bench, row, client_kind, server=False))
    client.wait_log("tunnel up: |Initialization Sequence Completed")
    return server, client


def _exchange(bench: Bench, to: str = SERVER_TUNNEL) -> None:
    far, near = connect(bench.wire.server, to, bench.wire.client)
    with far, near:
        transfer(near, far, SIZE).check()
        transfer(far, near, SIZE).check()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_nobody_pushes(bench: Bench, row: Row, kinds: tuple[str, str]) -> None:
    server, client = _start(bench, row, *kinds)
    ours = server if kinds[0] == OURS else client
    ours.wait_log(f"data {row.data}")
    _exchange(bench)
    _exchange(bench, SERVER_TUNNEL6)
    if row.name.startswith("renewed"):
        client.wait_log("(?s)renegotiated|VERIFY OK: depth=0.*VERIFY OK: depth=0")
        _exchange(bench)
    for peer in (server, client):
        assert "PUSH_REQUEST" not in peer.log and "decrypt" not in peer.log.lower().replace("incoming data", "")
    assert ours.stop() == ExitCode.OK


def test_either_end_begins_anew(bench: Bench, kinds: tuple[str, str]) -> None:
    """The end that waits takes a session that proves itself; the end that connects comes back by ping-restart."""
    row = Row("again", both=("ping-timer-rem", "explicit-exit-notify 1"))
    server, client = _start(bench, row, *kinds)
    _exchange(bench)
    client.kill()
    again = bench.client(kinds[1], _config(bench, row, kinds[1], server=False))
    again.wait_log("tunnel up: |Initialization Sequence Completed")
    _exchange(bench)
    server.stop()
    space = bench.wire.server
    server = Peer("waits2", kinds[0], "server", space, _config(bench, row, kinds[0], server=True), bench.folder)
    bench.peers.append(server)
    server.wait_log("listening on|UDPv4 link remote")
    twice = "(?s)tunnel up: .*tunnel up: |Sequence Completed.*Sequence Completed"
    again.wait_log(twice)
    _exchange(bench)
