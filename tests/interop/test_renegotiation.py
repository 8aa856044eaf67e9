# SPDX-License-Identifier: BSD-2-Clause
"""New keys every few seconds while data flows both ways: no byte is lost, no connection breaks, nothing restarts."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import SERVER_TUNNEL
from tests.interop.peers import OPENVPN, Case
from tests.interop.traffic import connect, load

SECONDS = 8.0
EVERY = 2
RATE = 1_500_000
AT_LEAST = 2
"""Renegotiations that must be seen; 8 s hold three."""
LONGEST_PAUSE = 2.0
"""A change of keys may cost a lost packet and its retransmission, not more."""


@pytest.mark.parametrize("initiator", ["client", "server"])
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_renegotiation_under_load(bench: Bench, kinds: tuple[str, str], proto: str, initiator: str) -> None:
    often, never = (f"reneg-sec {EVERY}",), ("reneg-sec 0",)
    case = Case(
        proto=proto, wrap="tls-crypt",
        server_lines=often if initiator == "server" else never, client_lines=often if initiator == "client" else never,
    )  # fmt: skip
    server, client = bench.both(case, *kinds)
    far, near = connect(bench.wire.server, SERVER_TUNNEL, bench.wire.client)
    with far, near:
        for outcome in load(near, far, SECONDS, RATE):
            outcome.check()
            assert outcome.longest_pause < LONGEST_PAUSE
    openvpn = server if server.kind == OPENVPN else client
    # openvpn says once per TLS session which data cipher it uses it with; the first one was no renegotiation.
    handshakes = openvpn.log.count("Control Channel: TLSv")
    assert handshakes - 1 >= AT_LEAST, f"{handshakes - 1} renegotiations"
    assert openvpn.log.count("Initialization Sequence Completed") == 1, "openvpn restarted"
    assert openvpn.log.count("'PUSH_REPLY") == 1, "a second push"
