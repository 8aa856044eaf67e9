# SPDX-License-Identifier: BSD-2-Clause
"""Compression framing of every kind against openvpn 2.6, configured and pushed; what it compresses let in or not."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import SERVER_TUNNEL
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config
from tests.interop.traffic import connect, transfer

FRAMINGS = [
    "comp-lzo no", "comp-lzo yes", "comp-lzo adaptive", "compress", "compress stub", "compress stub-v2", "compress lzo",
    "compress lz4", "compress lz4-v2",
]  # fmt: skip


@pytest.mark.parametrize("framing", FRAMINGS)
def test_configured_at_both_ends(bench: Bench, kinds: tuple[str, str], framing: str) -> None:
    """openvpn may compress (``asym`` makes it not send any), we never do; both directions pass."""
    case = Case(server_lines=(framing, "allow-compression asym"), client_lines=(framing, "allow-compression asym"))
    bench.both(case, *kinds)
    bench.exchange(100_000)


@pytest.mark.parametrize("framing", ["comp-lzo no", "compress stub-v2", "compress lz4-v2", "comp-lzo"])
def test_pushed(bench: Bench, framing: str) -> None:
    """A server frames what it sends by its own line, and pushes that to clients that say nothing."""
    case = Case(server_lines=(framing, f'push "{framing}"', "allow-compression asym"))
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    bench.client(OURS, client_config(case, bench.pki, OURS)).wait_up()
    bench.exchange(100_000)


COMPRESSING = ["comp-lzo yes", "compress lz4", "compress lz4-v2"]


@pytest.mark.parametrize("framing", COMPRESSING)
def test_what_openvpn_compresses_is_let_in_where_it_is_allowed(bench: Bench, framing: str) -> None:
    pytest.importorskip("lzo" if "lzo" in framing else "lz4")
    case = Case(server_lines=(framing, "allow-compression yes"), client_lines=(framing, "allow-compression asym"))
    bench.both(case, OPENVPN, OURS)
    far, near = connect(bench.wire.server, SERVER_TUNNEL, bench.wire.client)
    with far, near:
        far.sendall(bytes(200_000))
        left = 200_000
        while left:
            data = near.recv(65536)
            assert data and not data.strip(b"\0")
            left -= len(data)
        transfer(near, far, 50_000).check()


@pytest.mark.parametrize("framing", COMPRESSING)
def test_otherwise_it_is_dropped_and_said_once(bench: Bench, framing: str) -> None:
    case = Case(server_lines=(framing, "allow-compression yes"), client_lines=(framing,))
    _, client = bench.both(case, OPENVPN, OURS)
    far, near = connect(bench.wire.server, SERVER_TUNNEL, bench.wire.client)
    with far, near:
        far.sendall(bytes(50_000))
        client.wait_log("the server compresses; such packets are dropped: 'allow-compression' does not let it in")
        near.settimeout(1.0)
        with pytest.raises(TimeoutError):
            while near.recv(65536):
                pass
    assert client.log.count("the server compresses") == 1
