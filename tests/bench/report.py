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
    """Values of every round by (section, ends, metric)."""

    values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, section: str, ends: str, values: Values) -> None:
        """Note what one round gave."""
        for metric, value in values.items():
            self.values[section, ends, metric].append(value)

    def median(self, section: str, ends: str, metric: str) -> float | None:
        """The median over the rounds, if there is any value."""
        found = self.values.get((section, ends, metric))
        return statistics.median(found) if found else None


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(results: Results, sections: list[str], ends: list[str]) -> str:
    """One row a metric, one column for who is at the ends; beside ours, its share of openvpn's value."""
    lines = []
    for section in sections:
        lines.append("")
        lines.append(f"{section:<36} {'unit':<10}" + "".join(f"{name:>20}" for name in ends))
        for metric, unit in METRICS.items():
            row = [results.median(section, name, metric) for name in ends]
            if all(value is None for value in row):
                continue
            base = results.median(section, BASELINE, metric)
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


def write(
    results: Results, path: Path, rounds: int, seconds: float, limits: dict[str, tuple[float, str]],
    many: list[dict[str, object]],
) -> None:  # fmt: skip
    """Everything, with each round's value, as JSON; `many`: what servers with many clients needed."""
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
        "limits": {what: {"value": value, "unit": unit} for what, (value, unit) in limits.items()},
        "results": [
            {
                "section": section,
                "ends": ends,
                "metric": metric,
                "unit": METRICS[metric],
                "median": statistics.median(values),
                "values": values,
            }
            for (section, ends, metric), values in results.values.items()
        ],
        "many": many,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
