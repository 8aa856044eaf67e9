# SPDX-License-Identifier: BSD-2-Clause
"""AEAD keys against published numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import Consequence, MisuseError, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.aead import Aead
from qubes_miragevpn.crypto.suites import SUITES, Mode

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "aead.json").read_text())

AEAD = sorted(name for name, suite in SUITES.items() if suite.mode is Mode.AEAD)


def unhex(vector: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(vector[name]) for name in names]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["suite"])
def test_published_vectors(vector: dict[str, Any]) -> None:
    key, nonce, ad, plaintext, ciphertext, tag = unhex(vector, "key", "nonce", "ad", "plaintext", "ciphertext", "tag")
    aead = Aead(SUITES[vector["suite"]], Secret(key))
    assert aead.seal(nonce, plaintext, ad) == ciphertext + tag
    assert aead.open(nonce, ciphertext + tag, ad) == plaintext


def test_there_is_a_vector_for_every_suite() -> None:
    assert {vector["suite"] for vector in VECTORS} == set(AEAD)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["suite"])
def test_every_flipped_bit_is_noticed(vector: dict[str, Any]) -> None:
    key, nonce, ad, ciphertext, tag = unhex(vector, "key", "nonce", "ad", "ciphertext", "tag")
    aead = Aead(SUITES[vector["suite"]], Secret(key))
    whole = nonce + ad + ciphertext + tag
    for bit in range(len(whole) * 8):
        bent = bytearray(whole)
        bent[bit // 8] ^= 1 << bit % 8
        flipped = bytes(bent)
        with pytest.raises(PeerError) as caught:
            aead.open(flipped[:12], flipped[12 + len(ad) :], flipped[12 : 12 + len(ad)])
        assert caught.value.consequence is Consequence.DROP


@pytest.mark.parametrize("name", AEAD)
@pytest.mark.parametrize("length", [0, 1, 15, 16])
def test_too_short_for_a_tag(name: str, length: int) -> None:
    aead = Aead(SUITES[name], Secret(bytes(SUITES[name].key_size)))
    with pytest.raises(PeerError):
        aead.open(bytes(12), bytes(length), b"")


@pytest.mark.parametrize("name", AEAD)
@pytest.mark.parametrize("size", [0, 15, 17, 23, 31, 33])
def test_keys_of_a_wrong_size_are_our_own_fault(name: str, size: int) -> None:
    with pytest.raises(MisuseError):
        Aead(SUITES[name], Secret(bytes(size)))


def test_other_modes_are_not_aead() -> None:
    with pytest.raises(MisuseError):
        Aead(SUITES["AES-256-CBC"], Secret(bytes(32)))
