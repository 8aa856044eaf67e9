# SPDX-License-Identifier: BSD-2-Clause
"""A server that breaks or abuses TLS: floods up to 16 MB, messages after the handshake, old versions, weak choices."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Identity, PeerPolicy
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.control.tls import MAX_CHAIN, MAX_TLS_INPUT, _load_identity
from qubes_miragevpn.protocol.wire import keymethod2
from tests.interop.pki import SERVER_NAME, Authority, Pem, Pki
from tests.pair.hostile.means.records import (
    ALERT,
    CHANGE_CIPHER,
    DATA,
    HANDSHAKE,
    Sealer,
    client_hello,
    message,
    record,
    server_hello,
)
from tests.pair.hostile.means.rogue import HELLO, PUSH, Rogue, tls_context

FLOOD = 16 * 1024 * 1024
ENOUGH = 1.2 * MAX_TLS_INPUT
"""What a client takes at the most, with the heads of the packets."""


def flood(rogue: Rogue, pieces: Iterator[bytes]) -> None:
    """Up to 16 MB of `pieces`, or as much as the client takes."""
    while rogue.thrown < FLOOD and not rogue.lost:
        rogue.speak(b"".join(itertools.islice(pieces, 40)))
        rogue.acknowledge()


def require_ended(rogue: Rogue) -> None:
    assert rogue.lost and not rogue.up and rogue.thrown < ENOUGH, (rogue.thrown, rogue.said())
    assert sum(map(len, rogue.packets)) < 1.5 * rogue.thrown + 4096, "no amplification"


BEFORE: dict[str, Callable[[int], bytes]] = {
    "zeros": lambda _: bytes(1000),
    "noise": lambda n: (n * 2654435761 % 2**32).to_bytes(4, "big") * 250,
    "hello requests": lambda _: record(HANDSHAKE, message(0, b"") * 200),
    "a hello of 16 MB": lambda n: record(HANDSHAKE, message(2, b"", 0xFFFFFF) if not n else bytes(16000)),
    "certificates of 16 MB": lambda n: (
        server_hello() if not n else record(HANDSHAKE, message(11, b"", 0xFFFFFF) if n == 1 else bytes(16000))
    ),
    "warnings": lambda _: record(ALERT, b"\x01\x5a"),
    "change of ciphers": lambda _: record(CHANGE_CIPHER, b"\x01"),
    "empty records": lambda _: record(HANDSHAKE, b""),
    "records that never end": lambda n: record(HANDSHAKE, b"", size=16384) if not n else b"\x02",
    "too long a record": lambda _: record(HANDSHAKE, bytes(20000)),
    "data": lambda _: record(DATA, bytes(1000)),
}


@pytest.mark.parametrize("what", BEFORE)
def test_floods_instead_of_a_handshake(pki: Pki, what: str) -> None:
    rogue = Rogue(pki)
    rogue.reset()
    flood(rogue, (BEFORE[what](n) for n in itertools.count()))
    if not rogue.lost:  # less than a record came of it
        assert what == "records that never end" and rogue.thrown < FLOOD
    require_ended(rogue)


def ticket(n: int) -> bytes:
    return message(4, bytes(8) + b"\x08" + n.to_bytes(8, "big") + b"\x03\xe8" + bytes(1000) + bytes(2))


AFTER: dict[str, Callable[[Sealer, int], bytes]] = {
    "tickets": lambda s, n: s.seal(HANDSHAKE, ticket(n)),
    "key updates": lambda s, _: s.update_key(ask=False),
    "key updates that want an answer": lambda s, _: s.update_key(ask=True),
    "empty records": lambda s, _: s.seal(DATA, b""),
    "warnings": lambda s, _: s.seal(ALERT, b"\x01\x5a"),
    "a request for a certificate": lambda s, _: s.seal(HANDSHAKE, message(13, bytes(3))),
    "a second hello": lambda s, _: s.seal(HANDSHAKE, server_hello()[5:]),
    "change of ciphers": lambda s, _: record(CHANGE_CIPHER, b"\x01"),
    "a message of 16 MB": lambda s, n: s.seal(HANDSHAKE, message(4, b"", 0xFFFFFF) if not n else bytes(16000)),
    "what is not sealed": lambda s, _: record(HANDSHAKE, ticket(0)),
    "what is sealed wrong": lambda s, _: record(DATA, bytes(100)),
    "messages": lambda s, _: s.seal(DATA, b"INFO,%s\0" % (b"x" * 900)),
    "the longest records": lambda s, _: s.seal(DATA, b"INFO,%s\0" % (b"x" * 16000)),
}


@pytest.mark.parametrize("tunnel", [False, True], ids=["before the tunnel", "in the tunnel"])
@pytest.mark.parametrize("what", AFTER)
def test_floods_after_the_handshake(pki: Pki, what: str, tunnel: bool) -> None:
    sealer = Sealer(pki)
    rogue = sealer.rogue
    rogue.speak(sealer.seal(DATA, keymethod2.encode(HELLO)))
    if tunnel:
        rogue.speak(sealer.seal(DATA, PUSH.encode() + b"\0"))
        assert rogue.up
    flood(rogue, (AFTER[what](sealer, n) for n in itertools.count()))
    require_ended(rogue)


def test_answers_that_are_never_acknowledged_are_bounded(pki: Pki) -> None:
    """Each KeyUpdate has us answer; the answers wait for a window that never opens."""
    sealer = Sealer(pki)
    rogue = sealer.rogue
    rogue.speak(sealer.seal(DATA, keymethod2.encode(HELLO)))
    for _ in range(20_000):
        if rogue.lost:
            break
        rogue.line.to_ack.clear()
        rogue.speak(sealer.update_key(ask=True))
    require_ended(rogue)


def loose_context(pki: Pki, who: Pem | None = None, ciphers: str = "ALL:eNULL:@SECLEVEL=0") -> SSL.Context:
    """A context that does whatever the library can."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_cipher_list(ciphers.encode("ascii"))
    pem = who or pki.server
    _load_identity(context, Identity(pem.certificate.encode(), Secret(pem.key.encode())))
    return context


def test_renegotiation_inside_tls_is_refused(pki: Pki) -> None:
    context = loose_context(pki)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    rogue = Rogue(pki, context).working()
    for _ in range(50):
        if rogue.lost or not rogue.line.tls.renegotiate():
            break
        with suppress(SSL.Error):
            rogue.line.tls.do_handshake()
        rogue.flush()
    assert rogue.lost or rogue.line.tls.renegotiate_pending(), "the client did not take part"
    assert len(rogue.effects(c.TunnelUp)) == 1


# --- versions and suites that we did not offer


def test_what_the_client_offers(pki: Pki) -> None:
    """No version below 1.2, no weak suite or hash, no resumption, no early data, no compression of any kind."""
    rogue = Rogue(pki)
    for _ in range(2):
        rogue.packets.clear()
        rogue.reset()
        _, suites, extensions = client_hello(rogue.client_stream())
        versions = extensions[0x2B][1:]
        assert {versions[n : n + 2] for n in range(0, len(versions), 2)} == {b"\x03\x03", b"\x03\x04"}
        weak = range(0x0000, 0x002F), (0x003B, 0x006C, 0x006D, 0x00A6, 0x00A7), range(0xC015, 0xC01A)
        assert not [hex(suite) for suite in suites if any(suite in family for family in weak)]
        hashes = extensions[0x0D][2:]
        assert not {hashes[n] for n in range(0, len(hashes), 2)} & {1, 2}, "MD5 or SHA-1 signatures"
        for name in (0x23, 0x29, 0x2A, 0x1B, 0x31):  # ticket, PSK, early data, compressed certificates, late login
            assert not extensions.get(name), hex(name)
        rogue.handshake()
        rogue.introduce().say(PUSH, "RESTART")
        rogue.wait(2)
        rogue.begin()


@pytest.mark.parametrize(
    "hello",
    [
        server_hello(0x0300), server_hello(0x0301), server_hello(0x0302), server_hello(0x0305), server_hello(0xFEFD),
        server_hello(suite=0x0000), server_hello(suite=0x0002), server_hello(suite=0x003B),  # NULL
        server_hello(suite=0x0003), server_hello(suite=0x0008), server_hello(suite=0x0014),  # export
        server_hello(suite=0x0018), server_hello(suite=0x00A6), server_hello(suite=0xC018),  # anonymous
        server_hello(suite=0x0005), server_hello(suite=0x000A), server_hello(suite=0x5600),  # RC4, 3DES, a signal
        server_hello(compression=1),
        server_hello(ending=b"DOWNGRD\x01"), server_hello(ending=b"DOWNGRD\x00"),
        server_hello(extensions=bytes.fromhex("002900020000")),  # a session that we did not offer
        server_hello(extensions=bytes.fromhex("002a0000")), server_hello(extensions=bytes.fromhex("000f000101")),
        server_hello(extensions=bytes.fromhex("002b00020302")), server_hello(extensions=bytes.fromhex("002b00020303")),
    ],
    ids=lambda hello: hello[9:].hex()[:4] + hello[43:].hex(),
)  # fmt: skip
def test_a_hello_that_chooses_what_was_not_offered(pki: Pki, hello: bytes) -> None:
    rogue = Rogue(pki)
    rogue.reset()
    rogue.speak(hello)
    assert rogue.lost and not rogue.up, rogue.said()


@pytest.mark.parametrize("version", [SSL.TLS1_VERSION, SSL.TLS1_1_VERSION])
def test_an_old_server(pki: Pki, version: int) -> None:
    context = loose_context(pki)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    rogue = Rogue(pki, context).handshake()
    assert rogue.lost and not rogue.effects(c.TunnelUp)


@pytest.mark.parametrize("ciphers", ["eNULL:@SECLEVEL=0", "aNULL:@SECLEVEL=0"])
def test_a_server_without_encryption_or_certificate(pki: Pki, ciphers: str) -> None:
    context = loose_context(pki, ciphers=ciphers)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    rogue = Rogue(pki, context).handshake()
    assert rogue.lost and not rogue.effects(c.TunnelUp)


def test_a_chain_without_end(pki: Pki) -> None:
    authorities = [Authority("root")]
    for n in range(MAX_CHAIN + 4):
        authorities.append(authorities[-1].subordinate(f"CA {n}"))
    leaf = authorities[-1].issue(SERVER_NAME, "server")
    chain = leaf.certificate + "".join(authority.certificate for authority in reversed(authorities[1:]))
    context = tls_context(pki, who=Pem(chain, leaf.key))
    trust = PeerPolicy(ca_pem=authorities[0].certificate.encode())
    rogue = Rogue(pki, context, peer=trust).handshake()
    assert rogue.lost and "too long" in rogue.said(), rogue.said()


PRIMES = {
    512: "a0344acc0fd38af9b8fe7df1b3b213cbc86843a32cde646579d7ca586cf7acc1"
    "954b038613c6ea8f8182944ef9e0060bbda82ab3e597b13efe99589a759d8c6f",
    768: "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74"
    "020bbea63b139b22514a08798e3404ddef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245"
    "e485b576625e7ec6f44c42e9a63a3620ffffffffffffffff",
    2048: "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef95"
    "19b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7edee386bfb"
    "5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f83655d23dca3"
    "ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3be39e772c180e8603"
    "9b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa051015728e5a8aacaa68ffff"
    "ffffffffffff",
}
SHA256_NAME, SHA1_NAME, MD5_NAME = 4, 2, 1


def rsa_server(authority: Authority) -> tuple[rsa.RSAPrivateKey, bytes]:
    """A key and its certificate (DER), of an authority that the client trusts."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    leaf = authority._builder(name, key.public_key()).sign(authority.key, hashes.SHA256())  # type: ignore[arg-type]
    return key, leaf.public_bytes(Encoding.DER)


def exchange(key: rsa.RSAPrivateKey, randoms: bytes, prime: bytes, hash_name: int) -> bytes:
    """A ServerKeyExchange of finite-field Diffie-Hellman, correctly signed; the hash of that is called `hash_name`."""
    modulus = int.from_bytes(prime, "big")
    value = pow(2, modulus >> 3, modulus).to_bytes(len(prime), "big")
    params = b"".join(len(part).to_bytes(2, "big") + part for part in (prime, b"\x02", value))
    signature = key.sign(randoms + params, padding.PKCS1v15(), hashes.SHA256())
    return message(12, params + bytes((hash_name, 1)) + len(signature).to_bytes(2, "big") + signature)


@pytest.mark.parametrize(
    ("bits", "hash_name", "says"),
    [
        (512, SHA256_NAME, "dh key too small"), (768, SHA256_NAME, "dh key too small"),
        (768, SHA1_NAME, "dh key too small|wrong signature type"), (2048, SHA1_NAME, "wrong signature type"),
        (2048, MD5_NAME, "wrong signature type"), (2048, SHA256_NAME, ""),
    ],
)  # fmt: skip
def test_a_small_diffie_hellman_group(pki: Pki, bits: int, hash_name: int, says: str) -> None:
    """All is well but the size of the group, or the hash of the signature; the last row shows that all is well."""
    authority = Authority("CA")
    rogue = Rogue(pki, peer=PeerPolicy(ca_pem=authority.certificate.encode()))
    rogue.reset()
    key, leaf = rsa_server(authority)
    certificate = message(11, (len(leaf) + 3).to_bytes(3, "big") + len(leaf).to_bytes(3, "big") + leaf)
    hello = server_hello(suite=0x009F, extensions=bytes.fromhex("ff01000100"))  # DHE-RSA-AES256-GCM-SHA384
    prime = bytes.fromhex(PRIMES[bits])
    signed = exchange(key, rogue.client_stream()[11:43] + hello[11:43], prime, hash_name)
    rogue.speak(hello + record(HANDSHAKE, certificate) + record(HANDSHAKE, signed))
    rogue.speak(record(HANDSHAKE, message(14, b"")))
    assert rogue.lost is bool(says) and not rogue.effects(c.TunnelUp), rogue.said()
    assert re.search(says, rogue.said()), rogue.said()
