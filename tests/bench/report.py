# SPDX-License-Identifier: BSD-2-Clause
"""Medians, the table on the terminal and the JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.bench.measure import METRICS, Values
from tests.interop.netns import ENVIRONMENT

BASELINE = "openvpn"


@dataclass
class Results:
    """Values of every round by (transport, ends, metric)."""

    values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, transport: str, ends: str, values: Values) -> None:
        """Note what one round gave."""
        for metric, value in values.items():
            self.values[transport, ends, metric].append(value)

    def median(self, transport: str, ends: str, metric: str) -> float | None:
        """The median over the rounds, if there is any value."""
        found = self.values.get((transport, ends, metric))
        return statistics.median(found) if found else None


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(results: Results, transports: list[str], ends: list[str]) -> str:
    """One row a metric, one column for who is at the ends; beside ours, its share of openvpn's value."""
    lines = []
    for transport in transports:
        lines.append("")
        lines.append(f"{transport.upper():<36} {'unit':<10}" + "".join(f"{name:>20}" for name in ends))
        for metric, unit in METRICS.items():
            row = [results.median(transport, name, metric) for name in ends]
            if all(value is None for value in row):
                continue
            base = results.median(transport, BASELINE, metric)
            cells = "".join(f"{_cell(name, value, base):>20}" for name, value in zip(ends, row, strict=True))
            lines.append(f"{metric:<36} {unit:<10}{cells}")
    return "\n".join(lines[1:])


def _cell(name: str, value: float | None, base: float | None) -> str:
    if value is None:
        return "-"
    if name == BASELINE or not base or base <= 0:
        return f"{_number(value)}        "
    share = f"({value / base:.0%})"
    return f"{_number(value)} {share:>7}"


def _openvpn_version() -> str:
    ran = subprocess.run(["openvpn", "--version"], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    return ran.stdout.splitlines()[0] if ran.stdout else "unknown"


def write(results: Results, path: Path, rounds: int, seconds: float) -> None:
    """Everything, with each round's value, as JSON."""
    document = {
        "machine": {
            "processors": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "cryptography": version("cryptography"),
            "openvpn": _openvpn_version(),
        },
        "rounds": rounds,
        "seconds": seconds,
        "results": [
            {
                "transport": transport,
                "ends": ends,
                "metric": metric,
                "unit": METRICS[metric],
                "median": statistics.median(values),
                "values": values,
            }
            for (transport, ends, metric), values in results.values.items()
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
