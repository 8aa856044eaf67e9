# SPDX-License-Identifier: BSD-2-Clause
"""Key derivation, digests, CTR and the static key's halves against published numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.ctr import aes256_ctr
from qubes_miragevpn.crypto.digests import canonical_digest, digest_size, hmac_digest, same
from qubes_miragevpn.crypto.kdf import KeySource, prf_key_material, tls1_prf
from qubes_miragevpn.crypto.statickey import split_key2

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "control_channel.json").read_text())


def test_published_prf() -> None:
    vector = VECTORS["tls1_prf"]
    assert tls1_prf(vector["secret"].encode(), b"", vector["seed"].encode(), 32).hex() == vector["output"]


def test_label_and_seed_are_one_text() -> None:
    assert tls1_prf(b"secret", b"la", b"bel", 48) == tls1_prf(b"secret", b"label", b"", 48)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 20, 48, 255, 256])
def test_a_shorter_output_is_the_beginning_of_a_longer_one(size: int) -> None:
    assert tls1_prf(b"s3cret!", b"label", b"seed", size) == tls1_prf(b"s3cret!", b"label", b"seed", 300)[:size]


def test_an_odd_secret_shares_its_middle_byte() -> None:
    # RFC 2246 section 5: both halves of a five-byte secret hold the third byte.
    whole = tls1_prf(b"abcde", b"", b"seed", 64)
    for other in (b"abXde", b"Xbcde", b"abcdX"):
        assert tls1_prf(other, b"", b"seed", 64) != whole


def source(fill: int, *, client: bool) -> KeySource:
    return KeySource(Secret(bytes([fill]) * 48 if client else b""), bytes([fill + 1]) * 32, bytes([fill + 2]) * 32)


def test_key_material_depends_on_every_input_and_its_place() -> None:
    client, server = source(1, client=True), source(9, client=False)
    seen = {
        prf_key_material(client, server, b"c" * 8, b"s" * 8).reveal(),
        prf_key_material(client, server, b"s" * 8, b"c" * 8).reveal(),
        prf_key_material(source(2, client=True), server, b"c" * 8, b"s" * 8).reveal(),
        prf_key_material(client, source(10, client=False), b"c" * 8, b"s" * 8).reveal(),
        prf_key_material(
            KeySource(client.pre_master, client.random2, client.random1), server, b"c" * 8, b"s" * 8
        ).reveal(),
    }
    assert len(seen) == 5 and {len(material) for material in seen} == {256}


def test_key_material_shows_itself_nowhere() -> None:
    material = prf_key_material(source(1, client=True), source(9, client=False), b"c" * 8, b"s" * 8)
    assert repr(material) == "<secret>" and "\\x01" not in repr(source(1, client=True).pre_master)


# --- digests


def test_published_hmac() -> None:
    vector, text = VECTORS["hmac_sha1"], VECTORS["tls1_prf"]["secret"].encode()
    assert hmac_digest("SHA1", bytes.fromhex(vector["key"]), text + text).hex() == vector["output"]


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("SHA1", "SHA1"), ("sha1", "SHA1"), ("SHA-256", "SHA256"), ("rsa-sha512", "SHA512"), ("Sha384", "SHA384"),
        ("SHA512-256", "SHA512-256"), ("sha3-256", "SHA3-256"), ("BLAKE2b512", "BLAKE2b512"), ("MD5", "MD5"),
        ("rmd160", "RIPEMD160"), ("none", None), ("", None), ("SHA256 ", None), ("RSA-", None), ("SHAKE256", None),
    ],
)  # fmt: skip
def test_names_of_digests(name: str, canonical: str | None) -> None:
    assert canonical_digest(name) == canonical


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("SHA1", 20), ("SHA224", 28), ("SHA256", 32), ("SHA384", 48), ("SHA512", 64), ("SHA3-384", 48),
        ("SHA512-224", 28), ("BLAKE2s256", 32), ("RIPEMD160", 20), ("MD5", 16),
    ],
)  # fmt: skip
def test_sizes_of_digests(name: str, size: int) -> None:
    assert digest_size(name) == size == len(hmac_digest(name, b"key", b"text"))


@pytest.mark.parametrize("name", ["sha1", "md5", "", "shake128"])
def test_only_canonical_names_make_a_digest(name: str) -> None:
    with pytest.raises(MisuseError):
        digest_size(name)
    with pytest.raises(MisuseError):
        hmac_digest(name, b"key", b"text")


def test_tags_of_different_length_are_not_the_same() -> None:
    assert same(b"tag", b"tag")
    assert not same(b"tag", b"ta") and not same(b"", b"tag") and not same(b"tag", b"tah")


# --- CTR (NIST SP 800-38A, F.5.5)

CTR_KEY = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
CTR_IV = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
CTR_PLAIN = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
CTR_SEALED = "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"


def test_published_ctr_in_both_directions() -> None:
    key, iv, plain, sealed = map(bytes.fromhex, (CTR_KEY, CTR_IV, CTR_PLAIN, CTR_SEALED))
    assert aes256_ctr(key, iv, plain) == sealed and aes256_ctr(key, iv, sealed) == plain
    assert aes256_ctr(key, iv, plain[:19]) == sealed[:19] and aes256_ctr(key, iv, b"") == b""


def test_the_counter_wraps_at_128_bits() -> None:
    key = bytes.fromhex(CTR_KEY)
    assert aes256_ctr(key, b"\xff" * 16, bytes(32))[16:] == aes256_ctr(key, bytes(16), bytes(16))


# --- static key


def test_halves_of_the_published_static_key() -> None:
    lines = VECTORS["static_key"]["lines"]
    first, second = split_key2(bytes.fromhex("".join(lines)))
    quarters = [half.reveal() for half in (first.cipher, first.hmac, second.cipher, second.hmac)]
    assert quarters == [bytes.fromhex("".join(lines[at : at + 4])) for at in (0, 4, 8, 12)]


@pytest.mark.parametrize("size", [0, 128, 255, 257])
def test_a_key_of_another_size_is_a_bug(size: int) -> None:
    with pytest.raises(MisuseError):
        split_key2(bytes(size))
