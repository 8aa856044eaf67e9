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
        ("aes-192-gcm", "AES-192-GCM"),
        ("AES-256-cbc", "AES-256-CBC"),
        ("blowfish-cbc", "BF-CBC"),
        ("[null-cipher]", "none"),
    ],
)
def test_names_and_aliases(name: str, meant: str) -> None:
    assert canonical_cipher(name) == meant


@pytest.mark.parametrize(
    "name",
    ["", "AES-256-CFB", "AES-256-OFB", "CAMELLIA-256-CBC", "DES-CBC", " AES-256-GCM", "AES-256-GCM\0", "id-aes256-CCM"],
)
def test_other_names_mean_nothing(name: str) -> None:
    assert canonical_cipher(name) is None


def test_the_table() -> None:
    assert {(s.name, s.key_size, s.tag_size, s.implicit_iv_size, s.usage_limit) for s in SUITES.values()} == {
        ("AES-128-GCM", 16, 16, 8, 2**36 - 1),
        ("AES-192-GCM", 24, 16, 8, 2**36 - 1),
        ("AES-256-GCM", 32, 16, 8, 2**36 - 1),
        ("CHACHA20-POLY1305", 32, 16, 8, 0),
        ("AES-128-CBC", 16, 0, 0, 0),
        ("AES-192-CBC", 24, 0, 0, 0),
        ("AES-256-CBC", 32, 0, 0, 0),
        ("BF-CBC", 16, 0, 0, 0),
        ("DES-EDE3-CBC", 24, 0, 0, 0),
        ("none", 0, 0, 0, 0),
    }
    assert {name for name, suite in SUITES.items() if suite.insecure} == {"BF-CBC", "DES-EDE3-CBC", "none"}
    assert {name for name, suite in SUITES.items() if suite.renew_bytes} == {"BF-CBC", "DES-EDE3-CBC"}
    assert all(name == suite.name for name, suite in SUITES.items())
