# SPDX-License-Identifier: BSD-2-Clause
"""A tunnel to measure: which programs are at its ends, and what the kernel says about them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interop.netns import Wire, run
from tests.interop.peers import OPENVPN, OURS, PORT, Case, Peer, client_config, server_config
from tests.interop.pki import Pki

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ends:
    """Who is at the ends; `name` is the column's heading."""

    name: str
    server: str
    client: str


ENDS = (
    Ends("openvpn", OPENVPN, OPENVPN),
    Ends("ours", OURS, OURS),
    Ends("our client", OPENVPN, OURS),
    Ends("our server", OURS, OPENVPN),
)


@dataclass
class Tunnel:
    """A wire and the two VPN processes on it."""

    wire: Wire
    server: Peer
    client: Peer

    def cpu_seconds(self) -> float:
        """CPU time that both processes have used so far."""
        return sum(_cpu(peer.process.pid) for peer in (self.server, self.client))


def _cpu(pid: int) -> float:
    # /proc/PID/stat, fields 14 and 15 (utime, stime), counted after the name's closing parenthesis.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(peer: Peer) -> float:
    """Resident memory of a process in MiB."""
    for line in Path(f"/proc/{peer.process.pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def start_server(wire: Wire, folder: Path, ends: Ends, case: Case, pki: Pki) -> Peer:
    """The server alone, serving."""
    config = server_config(case, pki, ends.server)
    server = Peer(f"{ends.server}-server", ends.server, "server", wire.server, config, folder)
    server.wait_up()
    return server


def start_client(wire: Wire, folder: Path, ends: Ends, case: Case, pki: Pki, port: int = PORT) -> Peer:
    """The client, started and not waited for."""
    config = client_config(case, pki, ends.client, port=port)
    return Peer(f"{ends.client}-client", ends.client, "client", wire.client, config, folder)


@contextmanager
def tunnel(ends: Ends, case: Case, pki: Pki) -> Iterator[Tunnel]:
    """A tunnel that is up; taken down afterwards."""
    with workspace() as (wire, folder):
        server = start_server(wire, folder, ends, case, pki)
        try:
            client = start_client(wire, folder, ends, case, pki)
            try:
                client.wait_up()
                yield Tunnel(wire, server, client)
            finally:
                client.kill()
        finally:
            server.kill()


@contextmanager
def workspace() -> Iterator[tuple[Wire, Path]]:
    """A wire and a folder for configurations and logs, both removed at the end.

    The wire carries packets one by one, like a network card that does no segmentation for UDP. A veth left alone
    hands a whole batch (UDP_SEGMENT) over as one: that flatters whoever sends batches.
    """
    folder = Path(tempfile.mkdtemp(prefix="miragevpn-bench-"))
    wire = Wire()
    try:
        for end in (wire.server, wire.client):
            run("ip", "-n", end.name, "link", "set", "wire0", "gso_max_segs", "1")
        yield wire, folder
    finally:
        wire.close()
        shutil.rmtree(folder, ignore_errors=True)
