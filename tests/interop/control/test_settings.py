# SPDX-License-Identifier: BSD-2-Clause
"""The options strings of both ends: what is told of differences. openvpn serves."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config


@pytest.mark.parametrize(
    "case",
    [
        Case(wrap="tls-auth"),
        Case(proto="tcp", cipher="CHACHA20-POLY1305"),
        Case(cipher="AES-256-CBC", digest="SHA256", family=6, server_lines=("tun-mtu 1400", 'push "tun-mtu 1400"')),
        Case(server_lines=("comp-lzo no", 'push "comp-lzo no"')),
    ],
    ids=["tls-auth", "tcp", "pushed mtu", "pushed framing"],
)
def test_nothing_is_told_where_nothing_differs(bench: Bench, case: Case) -> None:
    _, client = bench.both(case, OPENVPN, OURS)
    bench.exchange(1_000)
    assert "inconsistently" not in client.log and "config but missing" not in client.log, client.log


def test_what_differs_is_told(bench: Bench) -> None:
    case = Case(client_lines=("fragment 1200",))
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    client = bench.client(OURS, client_config(case, bench.pki, OURS))
    client.wait_log("'mtu-dynamic' is present in local config but missing in remote config, local='mtu-dynamic'")
