# SPDX-License-Identifier: BSD-2-Clause
"""Round trips from a client's first packet to the settings of its tunnel, over a cable that a relay makes long.

Counted whole: what the programs compute by the way is less than one, on a cable of a third of a second there and back.
`python -m tests.bench --section handshake` prints the table.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from itertools import product

from tests.bench.relay import DelayingRelay, DelayingStream
from tests.bench.tunnel import Ends, start_client, start_server, workspace
from tests.interop.netns import SERVER_WIRE
from tests.interop.peers import OPENVPN, PORT, Case, Peer
from tests.interop.pki import Pki

DELAY = 0.15  # seconds each way
FAR_PORT = 1195
WITHIN = 20.0
CASES = tuple(
    Case(proto=proto, wrap=wrap, tls=tls)
    for proto, wrap, tls in product(("udp", "tcp"), ("none", "tls-auth", "tls-crypt", "tls-crypt-v2"), ("1.2", "1.3"))
)
_ARRIVED = {True: re.compile("PUSH: Received control message: 'PUSH_REPLY"), False: re.compile(r"\bup: ")}
"""What openvpn (True) and ours say when they have their settings."""

Key = tuple[Case, str]


def _wait(client: Peer) -> float:
    pattern = _ARRIVED[client.kind == OPENVPN]
    deadline = time.monotonic() + WITHIN
    while not pattern.search(client.log):
        if time.monotonic() > deadline or client.process.poll() is not None:
            raise RuntimeError(f"{client.name} has no settings\n{client.log[-2000:]}")
        time.sleep(0.005)
    return time.monotonic()


def measure(ends: Ends, case: Case, pki: Pki, delay: float = DELAY) -> float:
    """Round trips until `ends.client` has its settings."""
    with workspace() as (wire, folder):
        server = start_server(wire, folder, ends, case, pki)
        relay_of = DelayingRelay if case.proto == "udp" else DelayingStream
        relay = relay_of(wire.server, (SERVER_WIRE, FAR_PORT), (SERVER_WIRE, PORT), delay)
        try:
            client = start_client(wire, folder, ends, case, pki, FAR_PORT)
            try:
                return (_wait(client) - relay.first_datagram) / (2 * delay)
            finally:
                client.kill()
        finally:
            relay.close()
            server.kill()


def table(found: dict[Key, float], ends: Iterable[Ends]) -> str:
    """One row a way to connect, one column for who is at the ends; whole round trips."""
    lines = ["round trips from the first packet to the tunnel's settings"]
    lines.append(f"{'':<26}" + "".join(f"{each.name:>14}" for each in ends))
    for case in CASES:
        values = (found.get((case, each.name)) for each in ends)
        cells = "".join(f"{'-' if value is None else int(value):>14}" for value in values)
        lines.append(f"{case.proto:<5}{case.wrap:<14}TLS {case.tls:<3}{cells}")
    return "\n".join(lines)


def main(ends: Iterable[Ends], pki: Pki) -> tuple[str, bool]:
    """Measure everything; the table, and whether it is complete."""
    chosen = [each for each in ends if each.name != "reference"]
    found: dict[Key, float] = {}
    for case, each in product(CASES, chosen):
        try:
            found[case, each.name] = measure(each, case, pki)
        except (RuntimeError, AssertionError, OSError) as error:
            print(f"  handshake, {each.name}, {case.proto} {case.wrap}: {str(error).splitlines()[0]}", flush=True)
    return table(found, chosen), len(found) == len(CASES) * len(chosen)
