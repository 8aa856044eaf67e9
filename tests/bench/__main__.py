# SPDX-License-Identifier: BSD-2-Clause
"""`python -m tests.bench`: measure every pair of ends in every section, round by round, alternating.

Alternating within a round, and every second round backwards, so that whatever else the machine does falls on all of
them alike; the table shows medians and, in the file, every value.
"""

from __future__ import annotations

import argparse
import compileall
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import handshake, measure, profiles, report
from tests.bench.many import __main__ as many
from tests.bench.many import server as many_server
from tests.bench.tunnel import ENDS, Ends, tunnel
from tests.interop import pki as pki_module
from tests.interop.peers import REPOSITORY, Case
from tests.interop.pki import Pki


@dataclass(frozen=True)
class Section:
    """What one table shows: with `whole`, everything, otherwise throughput alone; over a `veth` as it comes, or a wire
    like a network card's."""

    case: Case
    forwarded: bool = False
    whole: bool = False
    veth: bool = False

    @property
    def metrics(self) -> set[str]:
        """What a complete measurement gives."""
        names = {name for name in measure.METRICS if "stream" in name or "per GiB" in name}
        if self.whole:
            names = set(measure.METRICS)
        if self.case.proto != "udp":
            names.discard("start to first packet, round trips")
        if self.forwarded:
            names -= {"200-byte packets down"} | measure.STARTING
        return names


def _case(proto: str, cipher: str = "AES-256-GCM") -> Case:
    lines = (f"data-ciphers-fallback {cipher}",) if cipher.endswith("CBC") else ()
    return Case(proto=proto, wrap="tls-crypt", cipher=cipher, server_lines=lines, client_lines=lines)


SECTIONS = {
    "udp": Section(_case("udp"), whole=True),
    "udp-forwarded": Section(_case("udp"), forwarded=True, whole=True),
    "udp-veth": Section(_case("udp"), veth=True),
    "udp-veth-forwarded": Section(_case("udp"), forwarded=True, veth=True),
    "tcp": Section(_case("tcp"), whole=True),
    "tcp-forwarded": Section(_case("tcp"), forwarded=True, whole=True),
    "chacha20": Section(_case("udp", "CHACHA20-POLY1305")),
    "cbc": Section(_case("udp", "AES-256-CBC")),
}
HANDSHAKE = "handshake"
MANY = "many"
ALL = [*SECTIONS, HANDSHAKE, MANY]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure against openvpn 2.6.")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one stream (default %(default)s)")
    parser.add_argument(
        "--delay", type=float, default=0.2, help="one-way delay of the relay in s (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--section", nargs="+", choices=ALL, default=ALL, metavar="SECTION",
                        help=f"of these: {', '.join(ALL)} (default: all)")  # fmt: skip
    parser.add_argument("--ends", nargs="+", choices=[ends.name for ends in ENDS], default=[ends.name for ends in ENDS])
    return parser.parse_args()


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def one(ends: Ends, section: Section, pki: Pki, seconds: float, delay: float) -> measure.Values:
    """All metrics once; one that fails is reported and left out."""
    values: measure.Values = {}

    def attempt(what: str, job: Callable[[], measure.Values]) -> None:
        try:
            values.update(job())
        except (RuntimeError, AssertionError, OSError) as error:
            say(f"  {what}: {str(error).splitlines()[0]}")

    if section.whole and not section.forwarded:
        attempt("command", lambda: measure.command_start(ends.client))
        attempt("start", lambda: measure.start(ends, section.case, pki, delay))
    try:
        with tunnel(ends, section.case, pki, forwarded=section.forwarded, veth=section.veth) as up:
            if section.whole:
                attempt("round trips", lambda: measure.round_trips(up, seconds))
            attempt("throughput", lambda: measure.throughput(up, seconds))
            if section.whole:
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
    # As packages have it; where PYTHONDONTWRITEBYTECODE is set every start would compile everything again.
    compileall.compile_dir(REPOSITORY / "qubes_miragevpn", quiet=1)
    pki = pki_module.make()
    results = report.Results()
    chosen = [ends for ends in ENDS if ends.name in options.ends]
    complete = True
    sections = [name for name in options.section if name in SECTIONS]
    limits = measure.limits(options.seconds) if sections else {}
    for number in range(1, options.rounds + 1):
        for name in sections:
            section = SECTIONS[name]
            for ends in chosen if number % 2 else chosen[::-1]:
                begin = time.monotonic()
                values = one(ends, section, pki, options.seconds, options.delay)
                complete = complete and values.keys() == section.metrics
                results.add(name, ends.name, values)
                shown = values.get("one stream up", 0.0), values.get("one stream down", 0.0)
                say(
                    f"round {number} of {options.rounds}, {name}, {ends.name}: "
                    f"{shown[0]:.0f} Mbit/s up, {shown[1]:.0f} down ({time.monotonic() - begin:.0f} s)"
                )
    crowds: list[many_server.Found] = []
    if MANY in options.section:
        crowds, whole = many.run(pki)
        complete = complete and whole
    if options.json:
        of_many = many_server.as_json(crowds)
        report.write(results, options.json, options.rounds, options.seconds, limits, of_many)
        say(f"written to {options.json}")
    say("")
    say(report.table(results, sections, [ends.name for ends in chosen]))
    say("")
    for what, (value, unit) in limits.items():
        say(f"{what}: {value:.0f} {unit}")
    say(f"a typical profile is read in {profiles.milliseconds(pki):.1f} ms")
    if crowds:
        say(f"\n{many_server.table(crowds)}")
    if HANDSHAKE in options.section:
        shown_table, whole = handshake.main(chosen, pki)
        complete = complete and whole
        say(f"\n{shown_table}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
