# SPDX-License-Identifier: BSD-2-Clause
"""CBC against NIST's numbers, its padding, and HMAC keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import MisuseError, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.cbc import Cbc, Hmac
from qubes_miragevpn.crypto.digests import digest_size
from qubes_miragevpn.crypto.suites import SUITES, Mode

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "cbc.json").read_text())
SUITES_CBC = sorted(name for name, suite in SUITES.items() if suite.mode is Mode.CBC)


def cbc(name: str) -> Cbc:
    return Cbc(SUITES[name], Secret(bytes(range(SUITES[name].key_size))))


@pytest.mark.parametrize("name", sorted(VECTORS["ciphertexts"]))
def test_published_vectors(name: str) -> None:
    vector = VECTORS["ciphertexts"][name]
    worker = Cbc(SUITES[name], Secret(bytes.fromhex(vector["key"])))
    iv, plaintext = bytes.fromhex(VECTORS["iv"]), bytes.fromhex(VECTORS["plaintext"])
    ciphertext = worker.encrypt(iv, plaintext)
    assert ciphertext[:-16].hex() == vector["ciphertext"]
    assert worker.decrypt(iv, ciphertext) == plaintext


@pytest.mark.parametrize("name", SUITES_CBC)
def test_every_length_comes_back(name: str) -> None:
    worker, block = cbc(name), SUITES[name].block_size
    for size in range(3 * block + 1):
        ciphertext = worker.encrypt(bytes(block), b"x" * size)
        assert len(ciphertext) == (size // block + 1) * block
        assert worker.decrypt(bytes(block), ciphertext) == b"x" * size


@pytest.mark.parametrize("name", SUITES_CBC)
def test_wrong_paddings_and_lengths_are_one_and_the_same_error(name: str) -> None:
    worker, block = cbc(name), SUITES[name].block_size
    said = set()
    good = worker.encrypt(bytes(block), b"x" * (block - 1))  # one byte of padding
    for last in [*range(0, 1), *range(2, 256)]:
        iv = bytes(block - 1) + bytes([last ^ 1])
        with pytest.raises(PeerError) as caught:
            worker.decrypt(iv, good)
        said.add(caught.value.reason)
    for ciphertext in (b"", good[:-1], good + b"x"):
        with pytest.raises(PeerError) as caught:
            worker.decrypt(bytes(block), ciphertext)
        said.add(caught.value.reason)
    with pytest.raises(PeerError) as caught:
        Hmac("SHA256", Secret(bytes(32))).verify(bytes(32), b"text")
    assert said == {caught.value.reason}


@pytest.mark.parametrize("digest", ["SHA1", "SHA512", "SHA3-256", "MD5"])
def test_hmac_takes_keys_of_the_digests_size_only(digest: str) -> None:
    key = Hmac(digest, Secret(bytes(digest_size(digest))))
    key.verify(key.sign(b"text"), b"text")
    for wrong in (key.sign(b"Text"), key.sign(b"text")[:-1], b"", key.sign(b"text") + b"x"):
        with pytest.raises(PeerError):
            key.verify(wrong, b"text")
    with pytest.raises(MisuseError):
        Hmac(digest, Secret(bytes(digest_size(digest) + 1)))


@pytest.mark.parametrize("name", ["AES-128-GCM", "none"])
def test_other_modes_are_not_cbc(name: str) -> None:
    with pytest.raises(MisuseError):
        Cbc(SUITES[name], Secret(bytes(SUITES[name].key_size)))
