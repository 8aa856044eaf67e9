# SPDX-License-Identifier: BSD-2-Clause
"""A server with many clients: full handshakes that a processor does per second, and memory for each client.

`python -m tests.bench.many [--clients N]`: our protocol core N times in this process, over TCP (where neither server
rations newcomers), against our server and then openvpn's on the same wire. They stay connected until the last is there;
the processor time of the first and of the last tenth shows whether the cost of one grows with their number.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.loader import load_client
from qubes_miragevpn.config.model import ClientConfig
from qubes_miragevpn.dataplane.framing import FrameReader, frame
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.client import Client
from tests.bench.tunnel import cpu, resident, workspace
from tests.interop import pki as pki_module
from tests.interop.netns import SERVER_WIRE
from tests.interop.peers import OPENVPN, OURS, PORT, Case, Peer, client_config, server_config
from tests.interop.pki import Pki

AT_ONCE = 32
WITHIN = 120.0  # seconds without anybody new until it is called a failure
CASE = Case(proto="tcp", wrap="tls-crypt")
_ENTROPY = open("/dev/urandom", "rb").read  # noqa: SIM115


@dataclass(frozen=True)
class Found:
    """What one server needs."""

    kind: str
    clients: int
    seconds: float  # for all; what the clients compute in this process is most of it
    cpu: float
    first: float  # processor seconds for each of the first tenth
    last: float
    memory: float  # MiB for all

    def row(self) -> str:
        """A row of the table."""
        memory = 1024 * self.memory / self.clients
        return (
            f"{self.kind:<10}{self.clients:>8}{self.seconds:>10.0f}{self.clients / self.cpu:>18.0f}"
            f"{1000 * self.first:>12.2f}{1000 * self.last:>12.2f}{memory:>16.0f}"
        )


TITLE = (
    f"{'server':<10}{'clients':>8}{'seconds':>10}{'per CPU second':>18}{'first, ms':>12}{'last, ms':>12}"
    f"{'KiB for each':>16}"
)


class Newcomer:
    """One client: a machine and its connection."""

    def __init__(self, config: ClientConfig, sock: socket.socket) -> None:
        self.sock = sock
        self.up = False
        self._link = 0
        self._machine = Client(config, entropy=_ENTROPY, unix_time=lambda: int(time.time()))
        self._frames = FrameReader()
        sock.setblocking(True)
        sock.connect((SERVER_WIRE, PORT))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._event(c.UserCommand(c.Command.CONNECT))

    def readable(self) -> None:
        """Something arrived; raises `PeerError` if that is the end."""
        data = self.sock.recv(65536)
        if not data:
            raise PeerError("the server closed the connection")
        for packet in self._frames.feed(data):
            if packet[0] >> 3 not in (6, 9):
                self._event(c.PacketReceived(self._link, (SERVER_WIRE, PORT), packet))

    def _event(self, event: c.Event) -> None:
        for effect in self._machine.handle(event, time.monotonic()):
            match effect:
                case c.OpenTransport(link):
                    self._link = link
                    self._event(c.TransportUp(link, (SERVER_WIRE, PORT)))
                case c.Transmit(_, _, packet):
                    self.sock.sendall(frame(packet))
                case c.TunnelUp():
                    self.up = True
                case c.TunnelDown(reason):
                    raise PeerError(reason)
                case _:
                    pass


def _no_files(name: str) -> bytes:
    raise FileNotFoundError(name)


def measure(kind: str, clients: int, pki: Pki) -> Found:
    """Let that many in; raises `RuntimeError` if they do not come."""
    lines = "duplicate-cn\nmax-clients 5000\n"
    text = server_config(CASE, pki, kind).replace("255.255.255.0", "255.255.0.0").replace("5 30", "60 600") + lines
    config = load_client(client_config(CASE, pki, OURS).encode(), file="client", read_file=_no_files).config
    with workspace() as (wire, folder):
        server = Peer(f"{kind}-server", kind, "server", wire.server, text, folder)
        server.wait_up()
        time.sleep(1.0)  # it listens a moment after its interface is there
        waiting = deque(wire.client.call(lambda: [socket.socket() for _ in range(clients)]))
        there: list[Newcomer] = []
        try:
            before, marks = resident(server), [cpu(server)]
            began = time.monotonic()
            _let_in(config, waiting, there, clients, lambda: marks.append(cpu(server)))
            seconds = time.monotonic() - began
            tenths = [10 * (later - earlier) / clients for earlier, later in pairwise(marks)]
            memory = resident(server) - before
            return Found(kind, clients, seconds, marks[-1] - marks[0], tenths[0], tenths[-1], memory)
        finally:
            server.kill()
            for sock in (*waiting, *(each.sock for each in there)):
                sock.close()


def _let_in(
    config: ClientConfig, waiting: deque[socket.socket], there: list[Newcomer], clients: int, mark: Callable[[], None]
) -> None:
    chosen, busy, deadline = selectors.DefaultSelector(), 0, time.monotonic() + WITHIN
    while len(there) - busy < clients:
        while waiting and busy < AT_ONCE:
            newcomer = Newcomer(config, waiting.popleft())
            there.append(newcomer)
            chosen.register(newcomer.sock, selectors.EVENT_READ, newcomer)
            busy += 1
        for key, _ in chosen.select(1):
            newcomer = key.data
            newcomer.readable()
            if newcomer.up:
                chosen.unregister(newcomer.sock)
                busy -= 1
                deadline = time.monotonic() + WITHIN
                if (len(there) - busy) % (clients // 10) == 0:
                    mark()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{busy} handshakes do not end")
    chosen.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both servers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    chosen = parser.parse_args(arguments)
    pki = pki_module.make()
    print(TITLE)
    for kind in (OURS, OPENVPN):
        print(measure(kind, max(chosen.clients // 10 * 10, 10), pki).row(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
