# SPDX-License-Identifier: BSD-2-Clause
"""``float``: openvpn's machine begins to send from another address, and our client goes on without a new handshake."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import SERVER_TUNNEL, run
from tests.interop.peers import OPENVPN, OURS, Case
from tests.interop.traffic import connect

OTHER = "192.0.2.9"


def move(bench: Bench) -> None:
    """The server's answers bear another address from now on; the old one is no more."""
    space = bench.wire.server.name
    run("ip", "-n", space, "address", "add", f"{OTHER}/24", "dev", "wire0")
    run("ip", "-n", space, "route", "change", "192.0.2.0/24", "dev", "wire0", "src", OTHER)


def test_the_server_is_followed(bench: Bench) -> None:
    case = Case(client_lines=("float",))
    _, client = bench.both(case, OPENVPN, OURS)
    bench.exchange(100_000)
    move(bench)
    bench.exchange(100_000)
    client.wait_log(f"the other end is at {OTHER} now")
    bench.exchange(100_000)
    assert client.log.count("authenticated the server") == 1 and "down:" not in client.log


def test_without_it_nothing_from_elsewhere_counts(bench: Bench) -> None:
    _, client = bench.both(Case(), OPENVPN, OURS)
    move(bench)
    with pytest.raises(OSError):
        connect(bench.wire.server, SERVER_TUNNEL, bench.wire.client, within=2.0)
    assert f"at {OTHER} now" not in client.log
