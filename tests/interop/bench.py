# SPDX-License-Identifier: BSD-2-Clause
"""A wire with a server and clients on it: what every interop test works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.netns import SERVER_TUNNEL, Wire
from tests.interop.peers import OURS, Case, Peer, client_config, server_config
from tests.interop.pki import Pki
from tests.interop.traffic import connect, transfer


@dataclass
class Bench:
    """A wire with a server and clients on it."""

    pki: Pki
    wire: Wire
    folder: Path
    peers: list[Peer] = field(default_factory=list)

    def server(self, kind: str, config: str, *, prf: bool = False, debug: bool = False) -> Peer:
        """Start a server; wait until it serves."""
        peer = Peer(f"{kind}-server", kind, "server", self.wire.server, config, self.folder, prf=prf, debug=debug)
        self.peers.append(peer)
        peer.wait_up()
        return peer

    def client(self, kind: str, config: str, *, prf: bool = False, wrapper: tuple[str, ...] = ()) -> Peer:
        """Start a client, by the program `wrapper` if there is one."""
        peer = Peer(f"{kind}-client", kind, "client", self.wire.client, config, self.folder, prf=prf, wrapper=wrapper)
        self.peers.append(peer)
        return peer

    def both(self, case: Case, server_kind: str, client_kind: str) -> tuple[Peer, Peer]:
        """Server and client of `case`, with the tunnel up."""
        prf = case.keys == "prf"
        server = self.server(server_kind, server_config(case, self.pki, server_kind), prf=prf and server_kind == OURS)
        client = self.client(client_kind, client_config(case, self.pki, client_kind), prf=prf and client_kind == OURS)
        client.wait_up()
        return server, client

    def exchange(self, size: int) -> None:
        """Send `size` bytes each way over one TCP connection through the tunnel, compared by checksum."""
        far, near = connect(self.wire.server, SERVER_TUNNEL, self.wire.client)
        with far, near:
            transfer(near, far, size).check()
            transfer(far, near, size).check()

    def close(self) -> None:
        """Stop everything; a program that does not end on SIGTERM was a failure already where that matters."""
        for peer in reversed(self.peers):
            peer.kill()
        self.wire.close()
