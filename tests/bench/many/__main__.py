# SPDX-License-Identifier: BSD-2-Clause
"""A server with many clients: full handshakes that a processor does per second, and memory for each client.

`python -m tests.bench.many [--clients N ...] [--proto udp tcp]`: our protocol core N times in this process, against
openvpn's server and ours, each on a wire of its own. They stay until the last is there; the processor time of the first
and of the last hundred shows whether the cost of one grows with their number.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from qubes_miragevpn.base.errors import PeerError
from tests.bench.many.server import SERVERS, Found, measure, table
from tests.interop import pki as pki_module
from tests.interop.pki import Pki

RUNS = (("udp", 100), ("udp", 1000), ("tcp", 1000))


def run(pki: Pki, runs: Sequence[tuple[str, int]] = RUNS) -> tuple[list[Found], bool]:
    """Measure every server; what was found, and whether that is all."""
    found = []
    asked = [(server, proto, size) for proto, size in runs for server in SERVERS]
    for server, proto, size in asked:
        try:
            found.append(measure(server, proto, size, pki))
            print(f"{size} clients over {proto}, {server.name}: {found[-1].seconds:.0f} s", flush=True)
        except (RuntimeError, AssertionError, OSError, PeerError) as error:
            print(f"  {size} clients over {proto}, {server.name}: {str(error).splitlines()[0]}", flush=True)
    return found, len(found) == len(asked)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and show; 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.many", description="A server with many clients.")
    parser.add_argument("--clients", type=int, nargs="+", help="how many (default: as in `make bench`)")
    parser.add_argument("--proto", nargs="+", choices=("udp", "tcp"), default=("udp", "tcp"))
    chosen = parser.parse_args(arguments)
    runs = RUNS
    if chosen.clients:
        runs = tuple((proto, max(size, 10)) for proto in chosen.proto for size in chosen.clients)
    found, complete = run(pki_module.make(), [each for each in runs if each[0] in chosen.proto])
    print(f"\n{table(found)}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
