# SPDX-License-Identifier: BSD-2-Clause
"""The matrix of `matrix.py`, row by row; and that the table is as complete as it says."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.interop.conftest import Bench
from tests.interop.matrix import ROWS, Row, run

FACTORS = {
    "over": ("udp4", "udp6", "tcp4"),
    "wrap": (
        "none", "tls-auth", "tls-auth-swapped", "tls-auth-both", "tls-crypt", "tls-crypt-v2", "tls-crypt-v2-beside",
    ),
    "tls": ("1.2", "1.3"),
    "cipher": ("AES-128-GCM", "AES-192-GCM", "AES-256-GCM", "CHACHA20-POLY1305", "AES-256-CBC"),
    "keys": ("exporter", "prf"),
}  # fmt: skip


@pytest.mark.parametrize("row", [row for row in ROWS if row.ours == "client"], ids=lambda row: row.name)
def test_our_client(bench: Bench, row: Row) -> None:
    run(bench, row)


@pytest.mark.parametrize("row", [row for row in ROWS if row.ours == "server"], ids=lambda row: row.name)
def test_our_server(bench: Bench, row: Row) -> None:
    run(bench, row)


@pytest.mark.parametrize(("one", "other"), list(combinations(FACTORS, 2)))
def test_every_pair_occurs(one: str, other: str) -> None:
    """In both directions; a protection and a data cipher, which have nothing to do with each other, in one of them."""
    directions = (("client", "server"),) if (one, other) == ("wrap", "cipher") else (("client",), ("server",))
    for ours in directions:
        found = {(getattr(row, one), getattr(row, other)) for row in ROWS if row.ours in ours}
        assert found >= set(product(FACTORS[one], FACTORS[other])), ours
