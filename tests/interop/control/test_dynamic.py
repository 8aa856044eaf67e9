# SPDX-License-Identifier: BSD-2-Clause
"""Dynamic tls-crypt against openvpn 2.6, over each base protection, both sides renegotiating at about the same time."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, Case

OFTEN = ("reneg-sec 2",)
AT_LEAST = 2

CASES = [
    Case(proto=proto, wrap=wrap, server_lines=OFTEN, client_lines=OFTEN)
    for proto, wrap in (("udp", "none"), ("tcp", "tls-auth"), ("udp", "tls-crypt"), ("udp", "tls-crypt-v2"))
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.proto}-{case.wrap}")
def test_both_renegotiate(bench: Bench, kinds: tuple[str, str], case: Case) -> None:
    server, client = bench.both(case, *kinds)
    openvpn = server if server.kind == OPENVPN else client
    openvpn.wait("renegotiations", lambda: openvpn.log.count("Control Channel: TLSv") > AT_LEAST)
    bench.exchange(20_000)
    assert "dyn-tls-crypt" in openvpn.log, "not negotiated"
    assert openvpn.log.count("Initialization Sequence Completed") == 1, "openvpn restarted"
    for complaint in ("unwrap error", "TLS Error", "authentication failed"):
        assert complaint not in openvpn.log, openvpn.log
