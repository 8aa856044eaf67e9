# SPDX-License-Identifier: BSD-2-Clause
"""New keys every few seconds under full load both ways: no byte is lost, no connection breaks, nothing restarts."""

from __future__ import annotations

import pytest

from qubes_miragevpn.runtime.backend import NATIVE, REFERENCE, VARIABLE
from tests.interop.conftest import Bench
from tests.interop.netns import ENVIRONMENT, SERVER_TUNNEL
from tests.interop.peers import OPENVPN, OURS, Case, Peer
from tests.interop.traffic import connect, load

SECONDS = 6.0
LONGEST = 40.0
EVERY = 2
AT_LEAST = 2
"""Renegotiations that must be seen; 6 s hold two or three, unless packets of the handshake are lost: the socket of a
stock peer is full as long as somebody sends more than it can take."""
LONGEST_PAUSE = 2.5
"""A change of keys may cost a burst of lost packets and their retransmissions, not more."""

ROWS = [
    (OPENVPN, OURS, "udp", "client"),
    (OPENVPN, OURS, "udp", "both"),
    (OPENVPN, OURS, "tcp", "server"),
    (OURS, OPENVPN, "udp", "server"),
    (OURS, OPENVPN, "tcp", "client"),
    (OURS, OPENVPN, "tcp", "both"),
    (OURS, OURS, "udp", "both"),
    (OURS, OURS, "tcp", "both"),
]
"""Server, client, transport, and who begins."""


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_renegotiation_under_load(bench: Bench, row: tuple[str, str, str, str]) -> None:
    play(bench, *row)


@pytest.mark.needs_native
def test_in_the_readable_data_plane(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which does everything on one thread: a handshake has to find its time between the packets."""
    monkeypatch.setitem(ENVIRONMENT, VARIABLE, REFERENCE)
    server, client = play(bench, OURS, OURS, "udp", "both")
    assert NATIVE not in server.log + client.log


def play(bench: Bench, server_kind: str, client_kind: str, proto: str, initiator: str) -> tuple[Peer, Peer]:
    """Renew the keys a few times while a stream runs each way as fast as it goes."""
    often, never = (f"reneg-sec {EVERY}",), ("reneg-sec 0",)
    case = Case(
        proto=proto, wrap="tls-crypt",
        server_lines=never if initiator == "client" else often, client_lines=never if initiator == "server" else often,
    )  # fmt: skip
    server, client = bench.both(case, server_kind, client_kind)
    far, near = connect(bench.wire.server, SERVER_TUNNEL, bench.wire.client)

    def renewed() -> int:
        return min(_renewed(peer) for peer in (server, client) if peer.kind == OPENVPN or peer.role == "client")

    with far, near:
        for outcome in load(near, far, SECONDS, LONGEST, lambda: renewed() >= AT_LEAST):
            outcome.check()
            assert outcome.longest_pause < LONGEST_PAUSE
    assert renewed() >= AT_LEAST, f"{renewed()} renegotiations"
    for peer in (server, client):
        log = peer.log
        if peer.kind == OPENVPN:
            assert log.count("Initialization Sequence Completed") == 1, "openvpn restarted"
            assert log.count("'PUSH_REPLY") == 1, "a second push"
        else:
            begun = "tunnel up: " if peer.role == "client" else " has 10.99.0.2 ("
            assert log.count(begun) == 1, f"{peer.name} began anew\n{log}"
    return server, client


def _renewed(peer: Peer) -> int:
    """How often `peer` says that it renewed its keys; our server does not say."""
    if peer.kind == OURS:
        return peer.log.count("renegotiated (key id ")
    return peer.log.count("Control Channel: TLSv") - 1  # the first one was no renegotiation


@pytest.mark.soak
@pytest.mark.parametrize("initiator", ["client", "server"])
@pytest.mark.parametrize("wrap", ["none", "tls-auth", "tls-crypt", "tls-crypt-v2"])
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_our_server_in_every_wrapping(bench: Bench, proto: str, wrap: str, initiator: str) -> None:
    """openvpn's client begins, or our server does, and the other only follows."""
    often, never = (f"reneg-sec {EVERY}",), ("reneg-sec 0",)
    case = Case(
        proto=proto, wrap=wrap,
        server_lines=never if initiator == "client" else often, client_lines=never if initiator == "server" else often,
    )  # fmt: skip
    server, client = bench.both(case, OURS, OPENVPN)
    client.wait("renegotiations", lambda: client.log.count("Control Channel: TLSv") > AT_LEAST)
    bench.exchange(20_000)
    assert client.log.count("Initialization Sequence Completed") == 1, "openvpn restarted"
    for complaint in ("unwrap error", "TLS Error", "authentication failed", "Traceback"):
        assert complaint not in client.log + server.log
