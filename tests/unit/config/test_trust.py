# SPDX-License-Identifier: BSD-2-Clause
"""Who we are and whom we trust: PKCS#12, encrypted keys, chains, revocation, expiry, and what TLS may use."""

from __future__ import annotations

import base64
import warnings
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.building.trust import ALONE, Surroundings
from qubes_miragevpn.config.loader import Loaded, load_client
from qubes_miragevpn.config.model import ClientConfig, TlsChoices
from qubes_miragevpn.crypto import identity, x509
from qubes_miragevpn.protocol.control.tls import make_context
from tests.unit.config.texts import CERTIFICATE, CLIENT, KEY, pem, read_file, without
from tests.unit.config.trust import Made

CA = Made("authority")
MIDDLE = Made("middle", CA)
OWN = Made("own", MIDDLE)
PASSWORD = b"pass-w0rd"
PAIR = "cert cert.pem\nkey key.pem\n"


def load(
    extra: str, files: dict[str, str | bytes] | None = None, base: str = CLIENT, surroundings: Surroundings = ALONE
) -> Loaded[ClientConfig]:
    def reader(path: str) -> bytes:
        found = (files or {}).get(path)
        if found is None:
            return read_file(path)
        return found.encode() if isinstance(found, str) else found

    return load_client((base + extra).encode(), file="c.ovpn", read_file=reader, surroundings=surroundings)


def error_of(*args: Any, **keywords: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args, **keywords)
    assert PASSWORD.decode() not in str(caught.value) and caught.value.line
    return str(caught.value)


def typed(password: bytes | None) -> Surroundings:
    return Surroundings(ask_password=lambda prompt: None if password is None else Secret(password))


# --- who we are -----------------------------------------------------------------------------------------


def test_extra_certs_follow_the_own_certificate() -> None:
    files = {"cert.pem": OWN.pem, "key.pem": OWN.key_pem(), "more.pem": MIDDLE.pem}
    loaded = load(PAIR + "extra-certs more.pem\n", files)
    assert loaded.config.common.identity is not None and loaded.warnings == ()
    assert loaded.config.common.identity.chain_pem.decode() == OWN.pem + MIDDLE.pem


def test_a_key_is_examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop waits each time that an RSA key is: when its file is read, and not for TLS again."""
    asked: list[dict[str, Any]] = []
    load_key = identity.load_pem_private_key

    def counted(pem: bytes, **how: Any) -> Any:
        asked.append(how)
        return load_key(pem, **how)

    for module in (identity, x509):
        monkeypatch.setattr(module, "load_pem_private_key", counted)
    common = load(PAIR, {"cert.pem": OWN.pem, "key.pem": OWN.key_pem()}).config.common
    make_context(common.identity, common.peer, common.tls, common.choices, server=False)
    assert [how for how in asked if not how.get("unsafe_skip_rsa_key_validation")] == [{"password": None}]


@pytest.mark.parametrize("tag", range(32))
def test_odd_der_is_an_error_like_any_other(tag: int) -> None:
    """Of some of these types of a name the library makes a KeyError, and which ones hangs on its version."""
    der = OWN.certificate.public_bytes(Encoding.DER)
    odd = der.replace(b"\x0c\x06middle", bytes((tag,)) + b"\x06middle").replace(b"\x02\x01\x05", b"\x02\x01\x00")
    text = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(odd).decode()}-----END CERTIFICATE-----\n"
    assert odd != der
    with suppress(ConfigError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(PAIR, {"cert.pem": text, "key.pem": OWN.key_pem()})


@pytest.mark.parametrize("what", ["pkcs12 own.p12\n", PAIR])
def test_a_password_that_no_c_string_could_be_is_a_wrong_one(what: str) -> None:
    files = {"own.p12": OWN.p12(PASSWORD), "cert.pem": OWN.pem, "key.pem": OWN.key_pem(PASSWORD), "pw": b"a\0b\n"}
    assert "is the password right?" in error_of(what + "askpass pw\n", files)


def test_a_chain_out_of_order_is_warned_of() -> None:
    loaded = load(PAIR, {"cert.pem": OWN.pem + CA.pem + MIDDLE.pem, "key.pem": OWN.key_pem()})
    assert loaded.warnings == ("c.ovpn:6: certificate number 2 of 'cert' did not issue the one before it",)


def test_a_key_of_another_certificate() -> None:
    assert "c.ovpn:7: the private key belongs to none" in error_of(PAIR, {"cert.pem": OWN.pem, "key.pem": CA.key_pem()})
    assert "c.ovpn:6: the private key belongs to certificate number 2 of 'cert' (put it first" in error_of(
        PAIR, {"cert.pem": MIDDLE.pem + OWN.pem, "key.pem": OWN.key_pem()}
    )


def test_an_encrypted_key_with_askpass() -> None:
    files: dict[str, str | bytes] = {"cert.pem": OWN.pem, "key.pem": OWN.key_pem(PASSWORD), "word": PASSWORD + b"\r\nx"}
    identity = load(PAIR + "askpass word\n", files).config.common.identity
    assert identity is not None and identity.key_pem.reveal().decode() == OWN.key_pem()


def test_an_encrypted_key_whose_password_is_typed() -> None:
    files = {"cert.pem": OWN.pem, "key.pem": OWN.key_pem(PASSWORD)}
    for askpass in ("", "askpass\n", "askpass stdin\n"):
        assert load(PAIR + askpass, files, surroundings=typed(PASSWORD)).config.common.identity is not None
    assert "is encrypted, and there is no password for it" in error_of(PAIR, files, surroundings=typed(None))
    assert "is the password right?" in error_of(PAIR, files, surroundings=typed(b"other"))
    assert "is the password right?" in error_of(PAIR + "askpass word\n", {**files, "word": "other\n"})
    assert "(write 'askpass FILE'" in error_of(PAIR, files)


def test_a_password_for_a_key_that_needs_none() -> None:
    files = {"cert.pem": OWN.pem, "key.pem": OWN.key_pem(), "word": PASSWORD}
    assert load(PAIR + "askpass word\n", files).warnings == ()


@pytest.mark.parametrize("password", [None, b"", PASSWORD])
@pytest.mark.parametrize("inline", [False, True])
def test_pkcs12(password: bytes | None, inline: bool) -> None:
    data = OWN.p12(password, MIDDLE)
    files: dict[str, str | bytes] = {"own.p12": data, "word": password or b""}
    block = f"<pkcs12>\n{base64.encodebytes(data).decode()}</pkcs12>\n"
    loaded = load((block if inline else "pkcs12 own.p12\n") + "askpass word\n", files)
    identity = loaded.config.common.identity
    assert identity is not None and identity.chain_pem.decode() == OWN.pem + MIDDLE.pem
    assert identity.key_pem.reveal().decode() == OWN.key_pem()
    assert loaded.config.common.peer.ca_pem.decode() == CERTIFICATE


def test_pkcs12_brings_the_authority_where_there_is_no_ca() -> None:
    loaded = load("pkcs12 own.p12\n", {"own.p12": OWN.p12(None, CA)}, base=without("ca"))
    assert loaded.config.common.peer.ca_pem.decode() == CA.pem
    assert loaded.config.common.identity is not None and loaded.config.common.identity.chain_pem.decode() == OWN.pem
    assert "holds no certificate of an authority" in error_of(
        "pkcs12 own.p12\n", {"own.p12": OWN.p12(None)}, base=without("ca")
    )


@pytest.mark.parametrize("data", [b"", b"\x30\x03\x02\x01\x05", b"!!!", b"MAMCAQU="])
def test_a_broken_pkcs12(data: bytes) -> None:
    assert "'pkcs12'" in error_of("pkcs12 own.p12\n", {"own.p12": data})


def test_pkcs12_with_a_wrong_password() -> None:
    files: dict[str, str | bytes] = {"own.p12": OWN.p12(PASSWORD), "word": b"other"}
    assert "cannot be opened: is the password right?" in error_of("pkcs12 own.p12\naskpass word\n", files)
    assert "cannot be opened without a password" in error_of("pkcs12 own.p12\n", files)


# --- whom to trust --------------------------------------------------------------------------------------

NOW = int(datetime(2030, 6, 1).timestamp())


@pytest.mark.parametrize(
    ("begin", "days", "text"),
    [
        (datetime(2020, 1, 1), 365, "expired on 2020-12-31"),
        (datetime(2031, 1, 1), 365, "is valid from 2031-01-01 on only"),
        (datetime(2030, 1, 1), 155, "expires on 2030-06-05"),
    ],
)
def test_expiry_is_a_warning(begin: datetime, days: int, text: str) -> None:
    made = Made("dated", begin=begin, life=timedelta(days=days))
    files = {"cert.pem": made.pem, "key.pem": made.key_pem()}
    (warning,) = load(PAIR, files, surroundings=Surroundings(unix_time=NOW)).warnings
    assert warning == f"c.ovpn:6: the certificate 'CN=dated' of 'cert' {text}"
    (warning,) = load("ca dated.pem\n", {"dated.pem": made.pem}, without("ca"), Surroundings(unix_time=NOW)).warnings
    assert warning == f"c.ovpn:5: the certificate 'CN=dated' of 'ca' {text}"
    assert load(PAIR, files).warnings == (), "without a clock nothing is said"


def test_revocation_list() -> None:
    crl = CA.revoke(5, 6)
    peer = load("crl-verify list.pem\n", {"list.pem": crl}).config.common.peer
    assert peer.crl_pem.decode() == crl and peer.revoked_serials is None
    peer = load(f"<crl-verify>\n{crl}</crl-verify>\n").config.common.peer
    assert peer.crl_pem.decode() == crl


def test_an_expired_revocation_list_is_warned_of() -> None:
    crl = CA.revoke(5, life=timedelta(days=30))
    (warning,) = load("crl-verify list.pem\n", {"list.pem": crl}, surroundings=Surroundings(unix_time=NOW)).warnings
    assert "the revocation list of 'CN=authority' was good until 2020-01-31" in warning


@pytest.mark.parametrize("content", ["", "nonsense", CERTIFICATE, pem("X509 CRL")])
def test_a_broken_revocation_list(content: str) -> None:
    assert "'crl-verify'" in error_of("crl-verify list.pem\n", {"list.pem": content})


def directory(*names: str) -> Surroundings:
    return Surroundings(list_directory=lambda path: list(names))


def test_a_directory_of_revoked_serial_numbers() -> None:
    loaded = load("crl-verify revoked dir\n", surroundings=directory("5", "17", "README", "0x3"))
    assert loaded.config.common.peer.revoked_serials == frozenset({5, 17})
    assert load("crl-verify revoked dir\n", surroundings=directory()).config.common.peer.revoked_serials == frozenset()
    assert "names a directory, which cannot be read here" in error_of("crl-verify revoked dir\n")
    many = directory(*map(str, range(2000)))
    assert "has more than 1024 entries" in error_of("crl-verify revoked dir\n", surroundings=many)


def test_a_directory_that_cannot_be_read() -> None:
    def refuse(path: str) -> list[str]:
        raise NotADirectoryError(20, "Not a directory", path)

    found = error_of("crl-verify revoked dir\n", surroundings=Surroundings(list_directory=refuse))
    assert "cannot read the directory 'revoked' of 'crl-verify': Not a directory" in found


def test_capath() -> None:
    files = {"dir/0a1b2c3d.0": CA.pem, "dir/0a1b2c3d.r0": CA.revoke(5), "dir/notes": "x"}
    surroundings = directory("0a1b2c3d.0", "0a1b2c3d.r0", "notes")
    peer = load("capath dir\n", files, without("ca"), surroundings).config.common.peer
    assert peer.ca_pem.decode() == CA.pem and peer.crl_pem.decode() == files["dir/0a1b2c3d.r0"]
    assert "holds no certificate under a hashed name" in error_of(
        "capath dir\n", files, without("ca"), directory("notes")
    )


def test_hashes_usages_and_fields() -> None:
    sha256, sha1 = ":".join(["ab"] * 32), ":".join(["CD"] * 20)
    peer = load(
        f"verify-hash {sha256}\nverify-hash {sha1} SHA1\nremote-cert-ku 80 a0 0088\n"
        'remote-cert-eku "TLS Web Server Authentication"\nx509-username-field ou emailAddress\n'
    ).config.common.peer
    assert peer.issuer_hashes == {b"\xab" * 32, b"\xcd" * 20}
    assert peer.key_usages == (0x80, 0xA0, 0x88) and peer.extended_usage == "1.3.6.1.5.5.7.3.1"
    assert peer.username_fields == ("OU", "emailAddress")
    assert load("remote-cert-ku\n").config.common.peer.key_usages == ()
    assert load("").config.common.peer.key_usages is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("verify-hash 00:11", "c.ovpn:6: this must be a SHA-256 fingerprint"),
        (f"verify-hash {':'.join(['00'] * 32)} SHA1", "this must be a SHA-1 fingerprint"),
        ("remote-cert-ku x", "the usage of 'remote-cert-ku' must be a hexadecimal number"),
        ("remote-cert-eku nonsense", "must be 'TLS Web Server Authentication' or an object identifier"),
        ("x509-username-field nonsense", "must be CN, emailAddress"),
        ("tls-cert-profile weak", "'tls-cert-profile' must be 'insecure', 'legacy'"),
    ],
)
def test_errors(line: str, error: str) -> None:
    assert error in error_of(line + "\n")


# --- what TLS may use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "choices", "warnings"),
    [
        ("", TlsChoices(), 0),
        (
            "tls-cipher TLS-DHE-RSA-WITH-AES-256-GCM-SHA384:TLS-ECDHE-ECDSA-WITH-CHACHA20-POLY1305-SHA256",
            TlsChoices("DHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305"),
            0,
        ),
        ("tls-cipher DHE-RSA-AES256-SHA:TLS-NOT-WITH-THAT", TlsChoices("DHE-RSA-AES256-SHA"), 1),
        ('tls-cipher "DEFAULT:@SECLEVEL=0"', TlsChoices("DEFAULT:@SECLEVEL=0"), 1),
        ("tls-ciphersuites TLS-AES-128-GCM-SHA256", TlsChoices(suites="TLS_AES_128_GCM_SHA256"), 0),
        ("tls-groups X25519:P-256", TlsChoices(groups="X25519:P-256"), 0),
        ("ecdh-curve secp384r1", TlsChoices(groups="secp384r1"), 0),
        ("tls-cert-profile preferred", TlsChoices(security_level=2), 0),
        ("tls-cert-profile legacy", TlsChoices(security_level=1), 1),
        (
            "tls-cert-profile suiteb",
            TlsChoices("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384", security_level=3),
            0,
        ),
    ],
)
def test_choices(lines: str, choices: TlsChoices, warnings: int) -> None:
    loaded = load(lines + "\n")
    assert loaded.config.common.choices == choices
    assert len(loaded.warnings) == warnings, loaded.warnings


def test_the_pair_of_the_texts_fits() -> None:
    assert load(PAIR, {"cert.pem": CERTIFICATE, "key.pem": KEY}).config.common.identity is not None
