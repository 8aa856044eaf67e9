# SPDX-License-Identifier: BSD-2-Clause
"""Addresses of both families that a server gives, and traffic of both."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import run
from tests.interop.peers import OPENVPN, OURS, Case
from tests.interop.traffic import connect, transfer

TUNNEL6 = Case(server_lines=("server-ipv6 fd42:99::/64",))


@pytest.mark.parametrize(("server", "client"), [(OURS, OPENVPN), (OPENVPN, OURS), (OURS, OURS)])
def test_both_families(bench: Bench, server: str, client: str) -> None:
    bench.both(TUNNEL6, server, client)
    space = bench.wire.client
    assert "inet6 fd42:99::1000/64" in run("ip", "-n", space.name, "-6", "addr", "show", "vpn0")
    bench.exchange(100_000)
    far, near = connect(bench.wire.server, "fd42:99::1", space)
    with far, near:
        transfer(near, far, 100_000).check()
        transfer(far, near, 100_000).check()
