# SPDX-License-Identifier: BSD-2-Clause
"""What is read of a peer's certificate, and that nothing a peer sends in its place can do more than be refused."""

from __future__ import annotations

import random
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from qubes_miragevpn.base.errors import ConfigError, PeerError
from qubes_miragevpn.crypto.x509 import inspect_certificate, load_certificates, load_private_key
from tests.unit.protocol.certificates import (
    CLIENT_AUTH,
    CN,
    SERVER_AUTH,
    certificate,
    der,
    key,
    key_pem,
    of_version,
    pem,
)


def test_facts_of_a_certificate() -> None:
    made = certificate(
        ((NameOID.COUNTRY_NAME, "AA"), (NameOID.ORGANIZATION_NAME, "Org"), (CN, "name")),
        usages=("digital_signature", "key_agreement"),
        extended=(SERVER_AUTH,),
    )
    facts = inspect_certificate(der(made))
    assert facts.subject == "C=AA, O=Org, CN=name"
    assert facts.common_name == "name"
    assert facts.key_usage == {"digital_signature", "key_agreement"}
    assert facts.server_auth and not facts.client_auth
    assert len(facts.fingerprint) == 32


def test_absent_is_not_allowed() -> None:
    facts = inspect_certificate(der(certificate(((NameOID.ORGANIZATION_NAME, "Org"),), usages=None, extended=None)))
    assert facts.common_name == "" and facts.key_usage is None
    assert not facts.server_auth and not facts.client_auth


def test_the_last_common_name_counts() -> None:
    facts = inspect_certificate(der(certificate(((CN, "first"), (CN, "last")))))
    assert facts.common_name == "last" and facts.subject == "CN=first, CN=last"


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "a\x1b[2J", "\x7f"])
def test_control_characters_in_a_name_are_refused(text: str) -> None:
    with pytest.raises(PeerError, match="control characters"):
        inspect_certificate(der(certificate(((CN, text),))))


def test_an_unknown_attribute_shows_its_number() -> None:
    oid = x509.ObjectIdentifier("1.2.3.4.5")
    assert inspect_certificate(der(certificate(((oid, "x"), (CN, "y"))))).subject == "1.2.3.4.5=x, CN=y"


@pytest.mark.parametrize("junk", [b"", b"\x30", b"\x30\x80", bytes(100), b"-----BEGIN CERTIFICATE-----"])
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(PeerError):
        inspect_certificate(junk)


def test_a_huge_certificate_is_not_looked_at() -> None:
    with pytest.raises(PeerError, match="over 65536"):
        inspect_certificate(bytes(64 * 1024 + 1))


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(PeerError, match="cannot be read"):
        inspect_certificate(of_version(der(certificate()), 5))


def test_a_doubled_extension_is_refused() -> None:
    made = der(certificate(usages=("digital_signature",), extended=(SERVER_AUTH,)))
    usage, extended = bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d25")
    assert made.count(usage) == made.count(extended) == 1
    with pytest.raises(PeerError, match="cannot be read"):
        inspect_certificate(made.replace(extended, usage))


@pytest.mark.filterwarnings("ignore")
def test_mutations_are_read_or_refused_and_nothing_else() -> None:
    dice = random.Random(20)
    good = der(certificate(((NameOID.COUNTRY_NAME, "AA"), (CN, "näme")), extended=(CLIENT_AUTH,)))
    refused = 0
    for _ in range(4000):
        changed = bytearray(good)
        for _ in range(dice.choice((1, 1, 2, 5))):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        cut = dice.randrange(len(changed)) if dice.random() < 0.1 else len(changed)
        try:
            inspect_certificate(bytes(changed[:cut]))
        except PeerError as error:
            refused += 1
            assert error.reason.isascii() and error.reason.isprintable()
    assert 1000 < refused < 4000


# --- our own


def test_own_chain_in_its_order() -> None:
    leaf, ca = certificate(((CN, "leaf"),)), certificate(((CN, "ca"),), ca=True)
    loaded = load_certificates(b"comment\n" + pem(leaf) + b"between\n" + pem(ca))
    assert [each.subject.rfc4514_string() for each in loaded] == ["CN=leaf", "CN=ca"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nothing",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----",
    ],
)
def test_unreadable_own_certificates(text: bytes) -> None:
    with pytest.raises(ConfigError, match="cert"):
        load_certificates(text)


def test_own_key() -> None:
    assert load_private_key(key_pem())


def test_an_encrypted_key_says_so() -> None:
    sealed = key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    with pytest.raises(ConfigError, match="encrypted"):
        load_private_key(sealed)


@pytest.mark.parametrize(
    "text", [b"", b"SECRETSECRET", b"-----BEGIN PRIVATE KEY-----\nU0VDUkVU\n-----END PRIVATE KEY-----\n"]
)
def test_an_unreadable_key_shows_nothing_of_itself(text: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ConfigError) as caught:
            load_private_key(text)
    assert "SECRET" not in str(caught.value) and "U0VDUkVU" not in str(caught.value)
