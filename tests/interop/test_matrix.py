# SPDX-License-Identifier: BSD-2-Clause
"""The matrix of `matrix.py`, row by row, with each data plane; and that the table is as complete as it says."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from qubes_miragevpn.runtime.backend import NATIVE, REFERENCE, VARIABLE
from tests.interop.conftest import Bench
from tests.interop.matrix import ROWS, Row, run
from tests.interop.netns import ENVIRONMENT

FACTORS = {
    "over": ("udp4", "udp6", "tcp4"),
    "wrap": (
        "none", "tls-auth", "tls-auth-swapped", "tls-auth-both", "tls-crypt", "tls-crypt-v2", "tls-crypt-v2-beside",
    ),
    "tls": ("1.2", "1.3"),
    "cipher": ("AES-128-GCM", "AES-192-GCM", "AES-256-GCM", "CHACHA20-POLY1305", "AES-256-CBC"),
    "keys": ("exporter", "prf"),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.ours}-{row.name}")
@pytest.mark.parametrize("backend", [pytest.param(NATIVE, marks=pytest.mark.needs_native), REFERENCE])
def test_against_openvpn(bench: Bench, monkeypatch: pytest.MonkeyPatch, backend: str, row: Row) -> None:
    monkeypatch.setitem(ENVIRONMENT, VARIABLE, backend)
    run(bench, row, backend)


@pytest.mark.parametrize(("one", "other"), list(combinations(FACTORS, 2)))
def test_every_pair_occurs(one: str, other: str) -> None:
    """In both directions; a protection and a data cipher, which have nothing to do with each other, in one of them."""
    directions = (("client", "server"),) if (one, other) == ("wrap", "cipher") else (("client",), ("server",))
    for ours in directions:
        found = {(getattr(row, one), getattr(row, other)) for row in ROWS if row.ours in ours}
        assert found >= set(product(FACTORS[one], FACTORS[other])), ours
