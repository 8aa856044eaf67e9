# SPDX-License-Identifier: BSD-2-Clause
"""What a server needs for each of many clients: processor time to let it in, to keep it, to let it go, and memory."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qubes_miragevpn.config.loader import load_client
from tests.bench.many.crowd import Crowd
from tests.bench.tunnel import cpu, resident, workspace
from tests.interop.peers import OPENVPN, OURS, Case, Peer, client_config, server_config
from tests.interop.pki import Pki

KEPT = 5.0  # seconds in which nobody comes or goes
GONE_WITHIN = 60.0
SPAN = 100  # clients over which a cost is taken, or half of all
LINES = """duplicate-cn
max-clients 5000
connect-freq-initial 100000 1
management m unix
verb 1
"""


@dataclass(frozen=True)
class Server:
    """A column of the table: who serves, and by what the packets are moved if it is ours."""

    name: str
    kind: str
    backend: str = "native"


SERVERS = (Server("openvpn", OPENVPN), Server("ours", OURS), Server("reference", OURS, "reference"))


@dataclass(frozen=True)
class Found:
    """What one server needed; times are of its processor, in seconds, but for `seconds`."""

    server: str
    proto: str
    clients: int
    seconds: float  # for all, of which what the clients compute in this process is most
    entering: float
    first: float  # for each of the first `SPAN`
    last: float  # and of the last
    keeping: float  # of a second, while all are there
    leaving: float
    memory: float  # MiB for all

    def values(self) -> dict[str, float]:
        """What is shown and written, by name."""
        return {
            "handshakes per CPU second": self.clients / max(self.entering, 0.01),
            "CPU of one, of the first hundred": 1000 * self.first,
            "CPU of one, of the last hundred": 1000 * self.last,
            "memory for each": 1024 * self.memory / self.clients,
            "CPU of all while they stay": 1000 * self.keeping,
            "CPU of one that leaves": 1000 * self.leaving / self.clients,
            "seconds in all": self.seconds,
        }


UNITS = ("1/s", "ms", "ms", "KiB", "ms/s", "ms", "s")


def measure(server: Server, proto: str, clients: int, pki: Pki, kept: float = KEPT) -> Found:
    """Let that many in and, after `kept` seconds, out again.

    Raises `RuntimeError`, `PeerError` or `AssertionError` if they do not come, or do not go.
    """
    case = Case(proto=proto, wrap="tls-crypt")
    text = server_config(case, pki, server.kind).replace("255.255.255.0", "255.255.0.0").replace("5 30", "10 600")
    profile = client_config(case, pki, OURS) + ("explicit-exit-notify 1\n" if proto == "udp" else "")
    config = load_client(profile.encode(), file="client", read_file=_no_files).config
    kind = socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM
    with workspace() as (wire, folder), Crowd(config, wire.client, kind, clients) as crowd:
        choosing = ("env", f"MIRAGEVPN_DATAPLANE={server.backend}")
        name = f"{server.name}-server"
        peer = Peer(name, server.kind, "server", wire.server, text + LINES, folder, wrapper=choosing)
        try:
            peer.wait_up()
            peer.wait("socket", lambda: _connected(folder / "m") == 0)
            return _measured(server, proto, clients, peer, crowd, lambda: _connected(folder / "m"), kept)
        finally:
            peer.kill()


def _measured(
    server: Server, proto: str, clients: int, peer: Peer, crowd: Crowd, connected: Callable[[], int | None], kept: float
) -> Found:
    span = min(SPAN, clients // 2)
    before, began = resident(peer), time.monotonic()
    spent = {0: cpu(peer)}

    def mark(there: int) -> None:
        if there in (span, clients - span, clients):
            spent[there] = cpu(peer)

    crowd.enter(mark)
    seconds = time.monotonic() - began
    memory = resident(peer) - before
    time.sleep(kept)
    stayed = cpu(peer)
    crowd.leave()
    peer.wait("everybody's leaving", lambda: connected() == 0, GONE_WITHIN)
    return Found(
        server.name,
        proto,
        clients,
        seconds,
        entering=spent[clients] - spent[0],
        first=(spent[span] - spent[0]) / span,
        last=(spent[clients] - spent[clients - span]) / span,
        keeping=(stayed - spent[clients]) / kept,
        leaving=cpu(peer) - stayed,
        memory=memory,
    )


def _connected(path: Path) -> int | None:
    """How many clients the server has, as it says at its management socket; None while there is none."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        try:
            sock.connect(str(path))
        except OSError:
            return None
        sock.sendall(b"load-stats\n")
        with sock.makefile("r") as stream:
            for line in stream:
                if line.startswith("SUCCESS: nclients="):
                    return int(line.split("=")[1].split(",")[0])
    return None


def _no_files(name: str) -> bytes:
    raise FileNotFoundError(name)


def table(found: list[Found]) -> str:
    """One row a figure, one column a server, one part a protocol and a number of clients."""
    lines = []
    for proto, clients in dict.fromkeys((each.proto, each.clients) for each in found):
        those = [each for each in found if (each.proto, each.clients) == (proto, clients)]
        lines.append(f"{f'{clients} clients over {proto}':<36}{'unit':<8}" + "".join(f"{e.server:>12}" for e in those))
        for name, unit in zip(those[0].values(), UNITS, strict=True):
            lines.append(f"{name:<36}{unit:<8}" + "".join(f"{each.values()[name]:>12.2f}" for each in those))
        lines.append("")
    return "\n".join(lines[:-1])


def as_json(found: list[Found]) -> list[dict[str, object]]:
    """The same for the file."""
    return [{"server": e.server, "proto": e.proto, "clients": e.clients, **e.values()} for e in found]
