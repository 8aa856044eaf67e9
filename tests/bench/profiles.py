# SPDX-License-Identifier: BSD-2-Clause
"""How long it takes to read a typical profile: inline CA, certificate, key and static key, four thousand bytes."""

from __future__ import annotations

import statistics
import time

from qubes_miragevpn.config.loader import load_client
from tests.interop.peers import Case, client_config
from tests.interop.pki import Pki

RUNS = 50


def milliseconds(pki: Pki, runs: int = RUNS) -> float:
    """The median of `runs` readings, in milliseconds; the first, which imports what it needs, is left out."""
    text = client_config(Case(wrap="tls-crypt"), pki, "ours").encode()
    taken = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        load_client(text, file="bench.ovpn", read_file=lambda path: b"")
        taken.append(1000 * (time.perf_counter() - begin))
    return statistics.median(taken[1:])
