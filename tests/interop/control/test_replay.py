# SPDX-License-Identifier: BSD-2-Clause
"""``replay-persist``: what our client has seen of openvpn's packets under a static key outlives it."""

from __future__ import annotations

import time

import pytest

from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config


@pytest.mark.parametrize("wrap", ["tls-auth", "tls-crypt"])
def test_control_packets_seen_are_remembered(bench: Bench, wrap: str) -> None:
    case = Case(wrap=wrap, client_lines=("replay-persist seen",))
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    times = []
    for _ in range(2):
        client = bench.client(OURS, client_config(case, bench.pki, OURS))
        client.wait_up()
        bench.exchange(1_000)
        assert client.stop() == 0
        kind, when, number = (bench.folder / "seen").read_text(encoding="ascii").split()
        assert kind == "miragevpn-seen" and abs(time.time() - int(when)) < 60 and int(number) > 3
        times.append(int(when))
        time.sleep(1.1)  # openvpn's numbering must be newer than the last one: its time has seconds
    assert times[1] > times[0]
