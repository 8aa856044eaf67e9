# SPDX-License-Identifier: BSD-2-Clause
"""TLS records made by hand, for what no TLS library would send: before, during and after the handshake (RFC 8446)."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Identity, PeerPolicy, TlsChoices, TlsVersions
from qubes_miragevpn.protocol.control.tls import make_context
from tests.interop.pki import Pki
from tests.pair.hostile.means.rogue import Rogue

CHANGE_CIPHER, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
SUITE = "TLS_AES_128_GCM_SHA256"


def record(kind: int, content: bytes, version: int = 0x0303, size: int | None = None) -> bytes:
    """A record in clear; `size` is what it claims to hold."""
    length = len(content) if size is None else size
    return bytes((kind,)) + version.to_bytes(2, "big") + length.to_bytes(2, "big") + content


def message(kind: int, content: bytes, size: int | None = None) -> bytes:
    """A handshake message; `size` is what it claims to hold."""
    return bytes((kind,)) + (len(content) if size is None else size).to_bytes(3, "big") + content


def server_hello(
    version: int = 0x0303, suite: int = 0xC02B, compression: int = 0, ending: bytes = bytes(8), extensions: bytes = b""
) -> bytes:
    """A ServerHello in its record; `ending` is that of its random bytes (RFC 8446, 4.1.3)."""
    tail = len(extensions).to_bytes(2, "big") + extensions if extensions else b""
    body = version.to_bytes(2, "big") + bytes(24) + ending + b"\0" + suite.to_bytes(2, "big") + bytes((compression,))
    return record(HANDSHAKE, message(2, body + tail))


def client_hello(packet_stream: bytes) -> tuple[int, list[int], dict[int, bytes]]:
    """Version, suites and extensions of the ClientHello at the beginning of `packet_stream`."""
    body = packet_stream[9:]
    version = int.from_bytes(body[:2], "big")
    at = 34 + 1 + body[34]
    size = int.from_bytes(body[at : at + 2], "big")
    suites = [int.from_bytes(body[at + 2 + n : at + 4 + n], "big") for n in range(0, size, 2)]
    at += 2 + size
    at += 1 + body[at] + 2
    extensions: dict[int, bytes] = {}
    while at < len(body):
        kind, length = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        extensions[kind] = body[at + 4 : at + 4 + length]
        at += 4 + length
    return version, suites, extensions


def _expand(secret: bytes, label: str, size: int) -> bytes:
    name = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes((len(name),)) + name + b"\0"
    return HKDFExpand(hashes.SHA256(), size, info).derive(secret)


class Sealer:
    """Takes over from the rogue's TLS library after the handshake, so that any record can be sealed and sent."""

    def __init__(self, pki: Pki, **config: object) -> None:
        pem = pki.server
        identity = Identity(pem.certificate.encode(), Secret(pem.key.encode()))
        choices = TlsChoices(suites=SUITE)
        context = make_context(identity, PeerPolicy(ca_pem=pki.ca.encode()), TlsVersions((1, 3)), choices, server=True)
        secrets: dict[bytes, bytes] = {}

        def note(_: SSL.Connection, line: bytes) -> None:
            name, _random, secret = line.split()
            secrets[name] = bytes.fromhex(secret.decode("ascii"))

        context.set_keylog_callback(note)
        self.rogue = Rogue(pki, context, **config).handshake()
        self._secret = secrets[b"SERVER_TRAFFIC_SECRET_0"]
        self._count = 0
        left = self.rogue.last_output  # the library's tickets
        while left:
            self._count += left[0] == DATA
            left = left[5 + int.from_bytes(left[3:5], "big") :]

    def seal(self, kind: int, content: bytes) -> bytes:
        """One sealed record."""
        head = record(DATA, b"", size=len(content) + 1 + 16)
        nonce = int.from_bytes(_expand(self._secret, "iv", 12), "big") ^ self._count
        self._count += 1
        key = AESGCM(_expand(self._secret, "key", 16))
        return head + key.encrypt(nonce.to_bytes(12, "big"), content + bytes((kind,)), head)

    def update_key(self, *, ask: bool) -> bytes:
        """A KeyUpdate; `ask` for one in return."""
        sealed = self.seal(HANDSHAKE, message(24, bytes((ask,))))
        self._secret, self._count = _expand(self._secret, "traffic upd", 32), 0
        return sealed
