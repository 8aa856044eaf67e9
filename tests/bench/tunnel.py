# SPDX-License-Identifier: BSD-2-Clause
"""A tunnel to measure: which programs are at its ends, who sends through it, what the kernel says about them.

    behind                     client               server
    eth0 -- 10.137.0.0/24 -- vif1.0   wire0 ====== wire0

`behind` stands for an AppVM: its packets are forwarded into the tunnel, under the tunnel's address, as a VPN qube does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interop.netns import ENVIRONMENT, Namespace, Wire, run
from tests.interop.peers import OPENVPN, OURS, PORT, TUN, Case, Peer, client_config, server_config
from tests.interop.pki import Pki

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ends:
    """Who is at the ends; `name` is the column's heading, `backend` moves the packets at those that are ours."""

    name: str
    server: str
    client: str
    backend: str = "native"


ENDS = (
    Ends("openvpn", OPENVPN, OPENVPN),
    Ends("ours", OURS, OURS),
    Ends("our client", OPENVPN, OURS),
    Ends("our server", OURS, OPENVPN),
    Ends("reference", OURS, OURS, "reference"),
)


@dataclass
class Tunnel:
    """A wire, the two VPN processes on it, and the machine whose packets the tunnel carries."""

    wire: Wire
    server: Peer
    client: Peer
    near: Namespace

    def cpu_seconds(self) -> tuple[float, float]:
        """CPU time that client and server have used so far."""
        return cpu(self.client), cpu(self.server)


def cpu(peer: Peer) -> float:
    """Seconds of processor time that a process has had, user and system."""
    # /proc/PID/stat, fields 14 and 15 (utime, stime), counted after the name's closing parenthesis.
    fields = Path(f"/proc/{peer.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
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
    server = Peer(f"{ends.server}-server", ends.server, "server", wire.server, config, folder, wrapper=_choosing(ends))
    server.wait_up()
    return server


def start_client(wire: Wire, folder: Path, ends: Ends, case: Case, pki: Pki, port: int = PORT) -> Peer:
    """The client, started and not waited for."""
    config = client_config(case, pki, ends.client, port=port)
    return Peer(f"{ends.client}-client", ends.client, "client", wire.client, config, folder, wrapper=_choosing(ends))


def _choosing(ends: Ends) -> tuple[str, ...]:
    return ("env", f"MIRAGEVPN_DATAPLANE={ends.backend}")


@contextmanager
def tunnel(ends: Ends, case: Case, pki: Pki, *, forwarded: bool = False, veth: bool = False) -> Iterator[Tunnel]:
    """A tunnel that is up; what it carries is the client's own, or `forwarded` from a machine behind it."""
    with workspace(veth=veth) as (wire, folder):
        server = start_server(wire, folder, ends, case, pki)
        try:
            client = start_client(wire, folder, ends, case, pki)
            try:
                client.wait_up()
                if forwarded:
                    with behind(wire.client) as near:
                        yield Tunnel(wire, server, client, near)
                else:
                    yield Tunnel(wire, server, client, wire.client)
            finally:
                client.kill()
        finally:
            server.kill()


@contextmanager
def behind(router: Namespace) -> Iterator[Namespace]:
    """A machine whose packets `router` forwards into its tunnel."""
    near = Namespace(f"{router.name}-b")
    try:
        run("ip", "link", "add", "vif1.0", "netns", router.name, "type", "veth", "peer", "eth0", "netns", near.name)
        for space, name, address in ((router, "vif1.0", "10.137.0.1/24"), (near, "eth0", "10.137.0.10/24")):
            run("ip", "-n", space.name, "address", "add", address, "dev", name)
            run("ip", "-n", space.name, "link", "set", name, "up")
        run("ip", "-n", near.name, "route", "add", "default", "via", "10.137.0.1")
        run(*router.command("sysctl", "-qw", "net.ipv4.ip_forward=1"))
        subprocess.run(
            router.command("nft", "-f", "-"), input=_MASQUERADE, text=True, check=True, env=ENVIRONMENT
        )  # fmt: skip
        yield near
    finally:
        near.close()


_MASQUERADE = f"""
add table ip bench
add chain ip bench out {{ type nat hook postrouting priority srcnat; }}
add rule ip bench out oifname "{TUN}" masquerade
"""


@contextmanager
def workspace(*, veth: bool = False) -> Iterator[tuple[Wire, Path]]:
    """A wire and a folder for configurations and logs, both removed at the end.

    The wire is like a qube's network interface and most network cards: it segments TCP itself, carries packets of UDP
    one by one, and gathers what it receives (GRO). A veth left alone (`veth`) hands a whole batch of UDP (UDP_SEGMENT)
    over as one, which flatters whoever sends batches, and gathers nothing; what local sockets sent it only gathers if
    it may (rx-udp-gro-forwarding).
    """
    folder = Path(tempfile.mkdtemp(prefix="miragevpn-bench-"))
    wire = Wire()
    try:
        for end in () if veth else (wire.server, wire.client):
            run(
                *end.command(
                    "ethtool", "-K", "wire0", "tx-udp-segmentation", "off", "gro", "on", "rx-udp-gro-forwarding", "on"
                )
            )
        yield wire, folder
    finally:
        wire.close()
        shutil.rmtree(folder, ignore_errors=True)
