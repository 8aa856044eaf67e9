# SPDX-License-Identifier: BSD-2-Clause
"""Certificates in every form and with every check that a profile can ask for, against openvpn 2.6."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from qubes_miragevpn.base.exitcodes import ExitCode
from tests.interop.certificates import material
from tests.interop.certificates.material import Place
from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config
from tests.interop.pki import Pki

ONCE = "connect-retry-max 1\nconnect-retry 1 1\nhand-window 5\nserver-poll-timeout 5\n"


@pytest.fixture(scope="module")
def place(pki: Pki) -> Place:
    return material.make(pki)


@dataclass(frozen=True)
class Form:
    """How our client's profile is changed, and what it then says: "" when the tunnel comes up."""

    name: str
    change: Callable[[Bench, Place, str], str]
    refusal: str = ""
    server: str = ""  # further lines of openvpn's
    tls: str = "1.3"
    log: str = ""  # a line of our log when the tunnel is up


def write(bench: Bench, name: str, content: str | bytes) -> str:
    path = bench.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return str(path)


def line(text: str) -> Callable[[Bench, Place, str], str]:
    return lambda bench, place, config: f"{config}{text}\n"


def pkcs12(bench: Bench, place: Place, config: str) -> str:
    write(bench, "own.p12", material.bundle(place.pki.client, place.pki.ca))
    write(bench, "word", material.PASSWORD + b"\n")
    return material.without(config, "ca", "cert", "key") + "pkcs12 own.p12\naskpass word\n"


def encrypted(bench: Bench, place: Place, config: str) -> str:
    write(bench, "word", material.PASSWORD + b"\n")
    key = material.encrypted_key(place.pki.client)
    return material.without(config, "key") + f"askpass word\n<key>\n{key}</key>\n"


def capath(bench: Bench, place: Place, config: str) -> str:
    subject = x509.load_pem_x509_certificate(place.pki.ca.encode()).subject.public_bytes()
    write(bench, f"authorities/{hashlib.sha1(subject).hexdigest()[:8]}.0", place.pki.ca)
    return material.without(config, "ca") + "capath authorities\n"


def revoked(*names: str) -> Callable[[Bench, Place, str], str]:
    def change(bench: Bench, place: Place, config: str) -> str:
        crl = place.revoke(*(getattr(place.pki, name) for name in names))
        return config + f"<crl-verify>\n{crl}</crl-verify>\n"

    return change


def revoked_directory(name: str) -> Callable[[Bench, Place, str], str]:
    def change(bench: Bench, place: Place, config: str) -> str:
        write(bench, f"revoked/{material.serial(getattr(place.pki, name))}", "")
        return config + "crl-verify revoked dir\n"

    return change


def issuer(algorithm: hashes.HashAlgorithm, of: str = "ca") -> Callable[[Bench, Place, str], str]:
    def change(bench: Bench, place: Place, config: str) -> str:
        found = material.fingerprint(getattr(place.pki, of), algorithm)
        return f"{config}verify-hash {found} {algorithm.name.upper()}\n"

    return change


FORMS = (
    Form("pkcs12 with askpass", pkcs12),
    Form("encrypted key with askpass", encrypted),
    Form("capath", capath),
    Form("crl without the server", revoked("client")),
    Form("crl with the server", revoked("server"), "certificate refused: .*it is revoked"),
    Form("crl directory without the server", revoked_directory("client")),
    Form("crl directory with the server", revoked_directory("server"), "certificate refused: .*directory of crl-ver"),
    Form("verify-hash", issuer(hashes.SHA256())),
    Form("verify-hash SHA1", issuer(hashes.SHA1())),
    Form("verify-hash of another", issuer(hashes.SHA256(), "foreign_ca"), "certificate refused: .*verify-hash"),
    Form("remote-cert-ku", line("remote-cert-ku a0 80")),
    Form("remote-cert-ku that is missing", line("remote-cert-ku a0"), "certificate refused: .*wants the key usages a0"),
    Form("remote-cert-eku", line('remote-cert-eku "TLS Web Server Authentication"')),
    Form("remote-cert-eku that is missing", line("remote-cert-eku 1.2.3.4"), "certificate refused: .*remote-cert-eku"),
    Form(
        "tls-cipher",
        line("tls-cipher TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256"),
        tls="1.2",
        log="TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256",
    ),
    Form("tls-ciphersuites", line("tls-ciphersuites TLS_AES_128_GCM_SHA256"), log="TLSv1.3 TLS_AES_128_GCM_SHA256"),
    Form("tls-groups", line("tls-groups secp384r1"), server="tls-groups secp384r1\n"),
    Form(
        "tls-groups of another", line("tls-groups X25519"), "TLS failed|no TLS|closed", server="tls-groups secp521r1\n"
    ),
    Form("tls-cert-profile", line("tls-cert-profile preferred")),
)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_our_client(bench: Bench, place: Place, form: Form) -> None:
    case = Case(tls=form.tls)
    bench.server(OPENVPN, server_config(case, place.pki, OPENVPN) + form.server)
    config = form.change(bench, place, client_config(case, place.pki, OURS) + ONCE)
    client = bench.client(OURS, config)
    if form.refusal:
        assert client.wait_exit() in (ExitCode.AUTH, ExitCode.CONNECTION)
        client.must_have_said(form.refusal)
    else:
        client.wait_up()
        bench.exchange(1000)
        assert form.log in client.log
        assert client.stop() == 0
    assert material.PASSWORD.decode() not in client.log


def test_a_chain_with_extra_certs(bench: Bench, place: Place) -> None:
    """The server knows the root alone: what lies between comes from our client."""
    middle = place.authority.subordinate("Middle CA")
    leaf = middle.issue("qube-one", "client")
    bench.server(OPENVPN, server_config(Case(), place.pki, OPENVPN))
    config = client_config(Case(), place.pki, OURS, identity=leaf)
    client = bench.client(OURS, config + f"<extra-certs>\n{middle.certificate}</extra-certs>\n" + ONCE)
    client.wait_up()
    bench.exchange(1000)


def test_our_server_refuses_a_revoked_client(bench: Bench, place: Place) -> None:
    crl = place.revoke(place.pki.client)
    config = server_config(Case(), place.pki, OURS) + f"<crl-verify>\n{crl}</crl-verify>\n"
    server = bench.server(OURS, config)
    client = bench.client(OPENVPN, client_config(Case(), place.pki, OPENVPN))
    server.wait_log("certificate refused: 'CN=qube-one'.*it is revoked")
    client.kill()


@pytest.mark.parametrize("kind", ["list", "directory"])
def test_what_is_revoked_later_counts_at_the_next_renegotiation(bench: Bench, place: Place, kind: str) -> None:
    """openvpn renegotiates; our client reads again what is revoked, and leaves."""
    write(bench, "revoked/none", "")
    write(bench, "crl.pem", place.revoke(place.pki.client))
    case = Case(server_lines=("reneg-sec 4",), client_lines=(*ONCE.split("\n"),))
    bench.server(OPENVPN, server_config(case, place.pki, OPENVPN))
    how = "crl-verify crl.pem" if kind == "list" else "crl-verify revoked dir"
    client = bench.client(OURS, client_config(case, place.pki, OURS) + how + "\n")
    client.wait_log("up: ")
    if kind == "list":
        write(bench, "crl.pem", place.revoke(place.pki.server))
    else:
        write(bench, f"revoked/{material.serial(place.pki.server)}", "")
    assert client.wait_exit(20) == ExitCode.AUTH
    client.must_have_said("certificate refused: .*(it is revoked|directory of crl-verify)")


def test_our_server_names_a_client_by_another_field(bench: Bench, place: Place) -> None:
    config = server_config(Case(), place.pki, OURS) + "x509-username-field serialNumber CN\n"
    server = bench.server(OURS, config)
    client = bench.client(OPENVPN, client_config(Case(), place.pki, OPENVPN))
    client.wait_up()
    server.wait_log(f"0x{material.serial(place.pki.client):X}_qube-one")
