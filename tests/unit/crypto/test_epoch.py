# SPDX-License-Identifier: BSD-2-Clause
"""The chain of secrets of the epoch format against published numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.epoch import LAST_EPOCH, EpochChain, expand_label, hkdf_expand
from qubes_miragevpn.crypto.suites import SUITES

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "epoch.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["hkdf"], ids=lambda vector: vector["origin"][-6:])
def test_published_hkdf(vector: dict[str, Any]) -> None:
    okm = bytes.fromhex(vector["okm"])
    assert hkdf_expand(bytes.fromhex(vector["prk"]), bytes.fromhex(vector["info"]), len(okm)) == okm


def test_published_label() -> None:
    vector = VECTORS["label"]
    assert expand_label(bytes.fromhex(vector["secret"]), vector["label"].encode(), 16).hex() == vector["output"]


def test_published_data_key() -> None:
    vector = VECTORS["data_key"]
    secret = bytes.fromhex(vector["secret_begins"]).ljust(32, b"\0")
    assert expand_label(secret, b"data_key", 24).hex() == vector["key"]
    assert expand_label(secret, b"data_iv", 12).hex() == vector["iv"]
    _, iv = EpochChain(SUITES[vector["suite"]], Secret(secret)).key()
    assert iv == int(vector["iv"], 16)


def test_a_chain_has_an_end() -> None:
    chain = EpochChain(SUITES["AES-128-GCM"], Secret(bytes(32)))
    assert chain.epoch == 1
    chain.epoch = LAST_EPOCH - 1
    chain.advance()
    with pytest.raises(MisuseError):
        chain.advance()
    assert chain.epoch == LAST_EPOCH


def test_the_first_secret_has_32_bytes() -> None:
    with pytest.raises(MisuseError):
        EpochChain(SUITES["AES-128-GCM"], Secret(bytes(31)))
