# SPDX-License-Identifier: BSD-2-Clause
"""What a kernel, a card or a path does not do: traffic is carried all the same, intact.

Our client, with the native data plane, on one server after the other; each time something else is refused to it.
"""

from __future__ import annotations

import socket
import struct

import pytest

from qubes_miragevpn.runtime.backend import NATIVE
from tests.interop.bench import Bench
from tests.interop.datachannel.refusing import build
from tests.interop.netns import SERVER_TUNNEL
from tests.interop.peers import OURS, Case, Peer, client_config, server_config
from tests.interop.traffic import MEGABYTE, connect, transfer

ONE_BY_ONE = "which go one by one from now on"

ROWS = [
    ("headers,rows,gro", "the TUN offers packet by packet"),
    ("offloads,row-length", "the TUN offers no segmentation"),
    ("udp-offload", "the TUN offers TCP segmentation"),
    ("joined", f"it takes no TCP packets in one piece (Invalid argument), {ONE_BY_ONE}"),
]
"""Words of refusing.c, and what the log says."""

UDP_SEGMENT = 103
SIZE, COUNT = 1000, 40

pytestmark = pytest.mark.needs_native


def row_of_datagrams(bench: Bench, address: str) -> None:
    """The server's end sends a row of datagrams in one call; they arrive as they were, in order."""
    near = bench.wire.client.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    far = bench.wire.server.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with near, far:
        near.bind((address, 0))
        near.settimeout(20)
        payloads = [bytes([number]) * SIZE for number in range(COUNT)]
        size = struct.pack("=H", SIZE)
        far.sendmsg([b"".join(payloads)], [(socket.IPPROTO_UDP, UDP_SEGMENT, size)], 0, near.getsockname())
        assert [near.recv(2 * SIZE) for _ in payloads] == payloads


@pytest.mark.time_limit(240)
def test_carried_all_the_same(bench: Bench) -> None:
    case = Case(wrap="tls-crypt")
    server = bench.server(OURS, server_config(case, bench.pki, OURS))
    assert f"data plane: {NATIVE}" in server.log
    library = build(bench.folder)
    for words, said in ROWS:
        client = Peer(
            words, OURS, "client", bench.wire.client, client_config(case, bench.pki, OURS), bench.folder, debug=True,
            wrapper=("env", f"LD_PRELOAD={library}", f"REFUSE={words}"),
        )  # fmt: skip
        bench.peers.append(client)
        address = client.wait_up()
        far, near = connect(bench.wire.server, SERVER_TUNNEL, bench.wire.client)
        with far, near:
            transfer(near, far, MEGABYTE).check()
            transfer(far, near, MEGABYTE).check()
        row_of_datagrams(bench, address)
        for word in words.split(","):
            client.wait_log(f"refused: {word}")
        once = {"joined": 2}.get(words, 0)  # TCP, UDP
        client.wait("its words", lambda: said in client.log and client.log.count(ONE_BY_ONE) >= once)  # noqa: B023
        assert client.log.count(ONE_BY_ONE) == once, client.log
        client.stop()
        bench.peers.remove(client)

