# SPDX-License-Identifier: BSD-2-Clause
"""Twenty megabytes each way, compared by checksum, and several clients on our server."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import SERVER_TUNNEL, TUN
from tests.interop.peers import OPENVPN, OURS, Case, Peer, client_config, server_config
from tests.interop.traffic import MEGABYTE, connect, transfer


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_twenty_megabytes_each_way(bench: Bench, kinds: tuple[str, str], proto: str) -> None:
    bench.both(Case(proto=proto, wrap="tls-crypt"), *kinds)
    bench.exchange(20 * MEGABYTE)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_two_clients_of_one_server(bench: Bench, proto: str) -> None:
    """An openvpn client and one of ours on our server; each has an address of its own and both work at once."""
    case = Case(proto=proto, wrap="tls-crypt")
    bench.server(OURS, server_config(case, bench.pki, OURS))
    first = bench.client(OPENVPN, client_config(case, bench.pki, OPENVPN))
    first_address = first.wait_up()
    second_config = client_config(case, bench.pki, OURS, identity=bench.pki.second_client)
    space = bench.wire.second_client()
    second = Peer("second-client", OURS, "client", space, second_config, bench.folder)
    bench.peers.append(second)
    second_address = second.wait_up()
    assert first_address != second_address
    for client_space in (bench.wire.client, space):
        far, near = connect(bench.wire.server, SERVER_TUNNEL, client_space)
        with far, near:
            assert far.getpeername()[0] == client_space.address(TUN)
            transfer(near, far, MEGABYTE).check()
            transfer(far, near, MEGABYTE).check()
