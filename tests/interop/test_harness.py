# SPDX-License-Identifier: BSD-2-Clause
"""The harness itself, with openvpn at both ends: what fails elsewhere while this passes is ours."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, Case

CASES = [
    Case(proto="udp", wrap="tls-crypt", tls="1.3"),
    Case(proto="tcp", wrap="tls-auth", tls="1.2"),
    Case(proto="udp", wrap="tls-auth-both", tls="1.3", digest="SHA256", family=6),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.proto}{case.family}-{case.wrap}-{case.tls}")
def test_openvpn_at_both_ends(bench: Bench, case: Case) -> None:
    server, client = bench.both(case, OPENVPN, OPENVPN)
    bench.exchange(200_000)
    assert client.stop() == 0
    assert server.stop() == 0
