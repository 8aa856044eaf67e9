# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures of the interop tests: one PKI a session, a wire a test, and the logs of both ends when a test fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.interop import pki as pki_module
from tests.interop.netns import SERVER_TUNNEL, Wire
from tests.interop.peers import OPENVPN, OURS, Case, Peer, client_config, server_config
from tests.interop.pki import Pki
from tests.interop.traffic import connect, transfer

BENCH = pytest.StashKey["Bench"]()


@pytest.fixture(scope="session")
def pki() -> Pki:
    """Certificates and keys of this session."""
    return pki_module.make()


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


@pytest.fixture
def bench(pki: Pki, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """An empty wire."""
    made = Bench(pki, Wire(), tmp_path)
    request.node.stash[BENCH] = made
    yield made
    made.close()


@pytest.fixture(params=[(OPENVPN, OURS), (OURS, OPENVPN)], ids=["our-client", "our-server"])
def kinds(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(kind of the server, kind of the client): each of ours against the real one."""
    pair: tuple[str, str] = request.param
    return pair


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show both logs with a failure."""
    report = yield
    if report.failed and BENCH in item.stash:
        for peer in item.stash[BENCH].peers:
            tail = "\n".join(peer.log.splitlines()[-60:])
            report.sections.append((f"log of {peer.name} (last lines)", tail))
    return report
