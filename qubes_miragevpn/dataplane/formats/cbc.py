# SPDX-License-Identifier: BSD-2-Clause
"""The formats of the time before AEAD: CBC with an HMAC, and no encryption with an HMAC.

Big endian; ``header`` is ``op/kid 1 | peer-id 3`` (DATA_V2) or ``op/kid 1`` (DATA_V1), which nothing authenticates
(OpenVPN's crypto.c)::

    CBC     header | HMAC | IV, one block | CBC(packet id 4 | data, padded)     HMAC over IV and ciphertext
    none    header | HMAC | packet id 4 | data                                  HMAC over packet id and data

Encrypt, then MAC; on the way in the HMAC comes first. Nothing is decrypted, and no padding looked at, before it was
found right, and a padding that is wrong all the same counts as a wrong HMAC. The packet id is inside, so that replay
is looked for last.
"""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.crypto.cbc import Cbc, Hmac
from qubes_miragevpn.crypto.suites import Suite
from qubes_miragevpn.dataplane.interface import DataKeys, PeerLimits
from qubes_miragevpn.dataplane.keys import KeySlot, TooShort

PACKET_ID_SIZE = 4


class ClearKey(KeySlot):
    """One key pair of ``cipher none``: packets are authenticated and can be read by everybody."""

    __slots__ = ("_sign", "_tag_size", "_verify")

    def __init__(
        self, key_id: int, suite: Suite, keys: DataKeys, peer_id: int, limits: PeerLimits,
        entropy: Callable[[int], bytes],
    ) -> None:  # fmt: skip
        super().__init__(key_id, suite, keys, peer_id, limits, entropy)
        ours, theirs = Hmac(keys.digest, keys.send.hmac_key), Hmac(keys.digest, keys.receive.hmac_key)
        self._tag_size = ours.size
        self._sign = ours.sign
        self._verify = theirs.verify

    def seal(self, plaintext: bytes) -> bytes:
        """Return `plaintext` as a packet."""
        body = self._covered(self._numbered(plaintext))
        return self.header + self._sign(body) + body

    def open(self, packet: bytes, body_at: int) -> bytes:
        """Return the plaintext of `packet`."""
        covered_at = body_at + self._tag_size
        body = packet[covered_at:]
        if not body:
            raise TooShort
        self._verify(packet[body_at:covered_at], body)
        numbered = self._uncovered(body)
        if len(numbered) <= PACKET_ID_SIZE:
            raise TooShort
        number = int.from_bytes(numbered[:PACKET_ID_SIZE], "big")
        self.window.check(number)
        self.window.mark(number)
        self.packets_received += 1
        self.bytes_received += len(numbered) - PACKET_ID_SIZE
        return numbered[PACKET_ID_SIZE:]

    def _numbered(self, plaintext: bytes) -> bytes:
        self.packets_sent += 1
        self.bytes_sent += len(plaintext)
        return self.packets_sent.to_bytes(PACKET_ID_SIZE, "big") + plaintext

    def _covered(self, numbered: bytes) -> bytes:
        """What goes behind the HMAC for packet id and data."""
        return numbered

    def _uncovered(self, body: bytes) -> bytes:
        """Packet id and data out of an authentic `body`."""
        return body


class CbcKey(ClearKey):
    """One key pair of a CBC suite with an HMAC."""

    __slots__ = ("_block", "_decrypt", "_encrypt", "_entropy")

    def __init__(
        self, key_id: int, suite: Suite, keys: DataKeys, peer_id: int, limits: PeerLimits,
        entropy: Callable[[int], bytes],
    ) -> None:  # fmt: skip
        super().__init__(key_id, suite, keys, peer_id, limits, entropy)
        self._block = suite.block_size
        self._entropy = entropy
        self._encrypt = Cbc(suite, keys.send.cipher_key).encrypt
        self._decrypt = Cbc(suite, keys.receive.cipher_key).decrypt

    def _covered(self, numbered: bytes) -> bytes:
        iv = self._entropy(self._block)
        return iv + self._encrypt(iv, numbered)

    def _uncovered(self, body: bytes) -> bytes:
        return self._decrypt(body[: self._block], body[self._block :])
