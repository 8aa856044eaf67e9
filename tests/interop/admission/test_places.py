# SPDX-License-Identifier: BSD-2-Clause
"""One server of ours at several places: UDP and TCP, IPv4 and IPv6, and clients of both kinds at once."""

from __future__ import annotations

import socket

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import SERVER_TUNNEL, SERVER_WIRE, SERVER_WIRE6, TUN
from tests.interop.peers import OPENVPN, OURS, PORT, Case, Peer, client_config, server_config
from tests.interop.traffic import connect, transfer

PLACES = (f"local {SERVER_WIRE} {PORT} udp", f"local * {PORT} tcp", f"local {SERVER_WIRE6} {PORT} udp6", "duplicate-cn")
SIZE = 200_000


@pytest.mark.parametrize("among", [(), ("client-to-client",)], ids=["alone", "client-to-client"])
def test_clients_by_udp_tcp_and_ipv6_at_once(bench: Bench, among: tuple[str, ...]) -> None:
    """Without ``client-to-client`` the native data plane is the one at work, where it is built."""
    own = Case(wrap="tls-crypt", server_lines=(*PLACES, *among))
    server = bench.server(OURS, server_config(own, bench.pki, OURS))
    for where in (rf"{SERVER_WIRE} port {PORT}/udp", rf":: port {PORT}/tcp", rf"{SERVER_WIRE6} port {PORT}/udp"):
        server.wait_log(f"listening on {where}")
    machines = [
        (OPENVPN, bench.wire.client, Case(wrap="tls-crypt")),
        (OPENVPN, bench.wire.second_client(), Case(wrap="tls-crypt", proto="tcp")),
        (OURS, bench.wire.third_client(), Case(wrap="tls-crypt", family=6)),
    ]
    for number, (kind, space, case) in enumerate(machines):
        config = client_config(case, bench.pki, kind)
        bench.peers.append(Peer(f"client{number}", kind, "client", space, config, bench.folder))
    addresses = [peer.wait_up() for peer in bench.peers[1:]]
    assert len(set(addresses)) == 3
    spaces = [space for _, space, _ in machines]
    pairs = [(bench.wire.server, SERVER_TUNNEL, space) for space in spaces]
    if among:
        pairs += [(space, str(space.address(TUN)), spaces[n - 1]) for n, space in enumerate(spaces)]
    for listener, address, dialler in pairs:
        far, near = connect(listener, address, dialler)
        with far, near:
            transfer(near, far, SIZE).check()
            transfer(far, near, SIZE).check()


def test_all_places_or_none(bench: Bench) -> None:
    """One that cannot be had is named, and nothing is served at the others."""
    taken = bench.wire.server.call(lambda: socket.create_server((SERVER_WIRE, PORT)))
    with taken:
        text = server_config(Case(server_lines=PLACES), bench.pki, OURS)
        server = Peer("server", OURS, "server", bench.wire.server, text, bench.folder)
        bench.peers.append(server)
        assert server.wait_exit() != 0
    server.must_have_said(f"cannot use port {PORT}/tcp: Address already in use")
    assert "listening on" not in server.log
