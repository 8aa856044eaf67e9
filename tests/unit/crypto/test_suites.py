# SPDX-License-Identifier: BSD-2-Clause
"""Names of cipher suites."""

from __future__ import annotations

import pytest

from qubes_miragevpn.crypto.suites import SUITES, canonical_cipher


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AES-256-GCM", "AES-256-GCM"),
        ("aes-256-gcm", "AES-256-GCM"),
        ("id-aes256-GCM", "AES-256-GCM"),
        ("id-aes128-GCM", "AES-128-GCM"),
        ("ChaCha20-Poly1305", "CHACHA20-POLY1305"),
    ],
)
def test_names_and_aliases(name: str, meant: str) -> None:
    assert canonical_cipher(name) == meant


@pytest.mark.parametrize(
    "name",
    ["", "none", "AES-256-CBC", "BF-CBC", "AES-192-GCM", " AES-256-GCM", "AES-256-GCM\0", "id-aes256-CCM"],
)
def test_other_names_mean_nothing(name: str) -> None:
    assert canonical_cipher(name) is None


def test_the_table() -> None:
    assert {(s.name, s.key_size, s.tag_size, s.implicit_iv_size, s.usage_limit) for s in SUITES.values()} == {
        ("AES-128-GCM", 16, 16, 8, 2**36 - 1),
        ("AES-256-GCM", 32, 16, 8, 2**36 - 1),
        ("CHACHA20-POLY1305", 32, 16, 8, 0),
    }
    assert all(name == suite.name for name, suite in SUITES.items())
