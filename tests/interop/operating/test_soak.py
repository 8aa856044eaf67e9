# SPDX-License-Identifier: BSD-2-Clause
"""`make soak`: clients of both kinds come and go for minutes over a link that loses; the server does not grow."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.interop.bench import Bench
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config

LASTS = float(os.environ.get("SOAK_SECONDS", "180"))
WARMING = 4  # rounds until every way through the server has been gone once
GROWTH = 6 * 1024  # KiB: what an allocator may hold back; a session is about 100, so 60 that were kept would show
LINGERS = 4  # files of two connections: one of somebody killed whose reset was lost, one that is being closed
GONE_WITHIN = 120.0  # seconds until the last one killed has been silent for too long
LOSES = """
add table inet soak
add chain inet soak arrives { type filter hook input priority 0; }
add rule inet soak arrives iifname "wire0" numgen random mod 100 < 5 drop
"""


def size(pid: int) -> tuple[int, int]:
    """Resident memory in KiB, and open files."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return resident, len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.soak
@pytest.mark.time_limit(LASTS + 300)
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_clients_come_and_go_under_loss(bench: Bench, proto: str) -> None:
    case = Case(proto=proto, wrap="tls-crypt")
    server = bench.server(OURS, server_config(case, bench.pki, OURS))
    for space in (bench.wire.server, bench.wire.client):
        subprocess.run(space.command("nft", "-f", "-"), input=LOSES, text=True, check=True)
    empty = size(server.process.pid)[1]
    sizes: list[tuple[int, int]] = []
    deadline, number = time.monotonic() + LASTS, 0
    while time.monotonic() < deadline or len(sizes) <= WARMING:
        kind = (OURS, OPENVPN)[number % 2]
        client = bench.client(kind, client_config(case, bench.pki, kind))
        client.wait_up()
        if number % 3 == 2:
            client.kill()  # without a word: the next takes its place, or its silence ends it
        else:
            client.stop()
        bench.peers.remove(client)
        number += 1
        sizes.append(size(server.process.pid))
    settled = sizes[WARMING:]
    assert max(memory for memory, _ in settled) - settled[0][0] < GROWTH, sizes
    assert max(files for _, files in sizes) <= empty + LINGERS, (empty, sizes)
    server.wait("files as at first", lambda: size(server.process.pid)[1] <= empty, GONE_WITHIN)
    assert "Traceback" not in server.log
