# SPDX-License-Identifier: BSD-2-Clause
"""`python -m tests.bench`: measure every pair of ends over every transport, round by round, alternating.

Alternating within a round, and every second round backwards, so that whatever else the machine does falls on all of
them alike; the table shows medians.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import measure, profiles, report
from tests.bench.tunnel import ENDS, Ends, tunnel
from tests.interop import pki as pki_module
from tests.interop.peers import Case
from tests.interop.pki import Pki


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure against openvpn 2.6.")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one stream (default %(default)s)")
    parser.add_argument(
        "--delay", type=float, default=0.2, help="one-way delay of the relay in s (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--transport", nargs="+", choices=["udp", "tcp"], default=["udp", "tcp"])
    parser.add_argument("--ends", nargs="+", choices=[ends.name for ends in ENDS], default=[ends.name for ends in ENDS])
    return parser.parse_args()


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def one(ends: Ends, case: Case, pki: Pki, seconds: float, delay: float) -> measure.Values:
    """All metrics once; one that fails is reported and left out."""
    values: measure.Values = {}

    def attempt(what: str, job: Callable[[], measure.Values]) -> None:
        try:
            values.update(job())
        except (RuntimeError, AssertionError, OSError) as error:
            say(f"  {what}: {str(error).splitlines()[0]}")

    attempt("command", lambda: measure.command_start(ends.client))
    attempt("start", lambda: measure.start(ends, case, pki, delay))
    try:
        with tunnel(ends, case, pki) as up:
            attempt("round trips", lambda: measure.round_trips(up, seconds))
            attempt("throughput", lambda: measure.throughput(up, seconds))
            attempt("small packets", lambda: measure.small_packets(up, seconds))
            attempt("memory", lambda: measure.memory(up))
    except AssertionError as error:
        say(f"  tunnel: {error}")
    return values


def main() -> int:
    """Measure, show, write; 1 when something could not be measured."""
    options = arguments()
    if os.geteuid() != 0:
        say("bench: making network namespaces needs root")
        return 4
    pki = pki_module.make()
    results = report.Results()
    chosen = [ends for ends in ENDS if ends.name in options.ends]
    complete = True
    for number in range(1, options.rounds + 1):
        for transport in options.transport:
            case = Case(proto=transport, wrap="tls-crypt")
            for ends in chosen if number % 2 else chosen[::-1]:
                begin = time.monotonic()
                values = one(ends, case, pki, options.seconds, options.delay)
                expected = len(measure.METRICS) - (transport != "udp")
                complete = complete and len(values) == expected
                results.add(transport, ends.name, values)
                shown = values.get("one stream up", 0.0), values.get("one stream down", 0.0)
                say(
                    f"round {number} of {options.rounds}, {transport}, {ends.name}: "
                    f"{shown[0]:.0f} Mbit/s up, {shown[1]:.0f} down ({time.monotonic() - begin:.0f} s)"
                )
    if options.json:
        report.write(results, options.json, options.rounds, options.seconds)
        say(f"written to {options.json}")
    say("")
    say(report.table(results, options.transport, [ends.name for ends in chosen]))
    say(f"a typical profile is read in {profiles.milliseconds(pki):.1f} ms")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
