# SPDX-License-Identifier: BSD-2-Clause
"""``topology`` in its three kinds, pushed by openvpn to our client, by our server to openvpn's, and between ours."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, OURS, Case

ADDRESS = {"subnet": "10.99.0.2", "net30": "10.99.0.6", "p2p": "10.99.0.4"}
"""What the first client gets, whoever serves."""

ROWS = [
    *((topology, OPENVPN, OURS) for topology in ADDRESS),
    *((topology, OURS, OPENVPN) for topology in ("net30", "p2p")),
    ("net30", OURS, OURS),
]


@pytest.mark.parametrize(("topology", "server", "client"), ROWS)
def test_both_ends_reach_each_other(bench: Bench, topology: str, server: str, client: str) -> None:
    bench.both(Case(server_lines=(f"topology {topology}",)), server, client)
    assert bench.wire.client.address("vpn0") == ADDRESS[topology]
    bench.exchange(100_000)
