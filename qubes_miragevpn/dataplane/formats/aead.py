# SPDX-License-Identifier: BSD-2-Clause
"""The AEAD format (AES-GCM, ChaCha20-Poly1305), which every OpenVPN from 2.4 on speaks.

Big endian; opcode and key id share the first byte, ``opcode << 3 | key_id`` (OpenVPN's crypto.c)::

    DATA_V2   op/kid 1 | peer-id 3 | packet id 4 | tag 16 | ciphertext      AD = the first 8 bytes
    DATA_V1   op/kid 1 |             packet id 4 | tag 16 | ciphertext      AD = the packet id alone
    nonce     packet id 4 | implicit IV 8
"""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.crypto.aead import Aead
from qubes_miragevpn.crypto.suites import Suite
from qubes_miragevpn.dataplane.interface import DataKeys, PeerLimits
from qubes_miragevpn.dataplane.keys import V2_HEADER, KeySlot, TooShort

PACKET_ID_SIZE = 4
TAG_SIZE = 16


class AeadKey(KeySlot):
    """One key of an AEAD suite, both directions."""

    __slots__ = ("_decrypt", "_encrypt", "_receive_iv", "_send_iv")

    def __init__(
        self, key_id: int, suite: Suite, keys: DataKeys, peer_id: int, limits: PeerLimits,
        entropy: Callable[[int], bytes],
    ) -> None:  # fmt: skip
        if any(len(way.implicit_iv) != suite.implicit_iv_size for way in (keys.send, keys.receive)):
            raise MisuseError(f"{suite.name} takes an implicit IV of {suite.implicit_iv_size} bytes")
        super().__init__(key_id, suite, keys, peer_id, limits, entropy)
        self._encrypt = Aead(suite, keys.send.cipher_key).seal
        self._decrypt = Aead(suite, keys.receive.cipher_key).open
        self._send_iv = keys.send.implicit_iv.reveal()
        self._receive_iv = keys.receive.implicit_iv.reveal()

    def seal(self, plaintext: bytes) -> bytes:
        """Return `plaintext` as a packet."""
        number = self.packets_sent + 1
        self.packets_sent = number
        self.bytes_sent += len(plaintext)
        packet_id = number.to_bytes(4, "big")
        header = self.header
        prefix = header + packet_id
        # AD: all that is in front of the tag, but DATA_V1 leaves the opcode out.
        sealed = self._encrypt(packet_id + self._send_iv, plaintext, prefix if len(header) == V2_HEADER else packet_id)
        return prefix + sealed[-TAG_SIZE:] + sealed[:-TAG_SIZE]

    def open(self, packet: bytes, body_at: int) -> bytes:
        """Return the plaintext of `packet`: replay is looked for first, and remembered once the tag was verified."""
        tag_at = body_at + PACKET_ID_SIZE
        data_at = tag_at + TAG_SIZE
        if len(packet) <= data_at:
            raise TooShort
        packet_id = packet[body_at:tag_at]
        number = int.from_bytes(packet_id, "big")
        self.window.check(number)
        ad = packet[:tag_at] if body_at == V2_HEADER else packet_id
        plaintext = self._decrypt(packet_id + self._receive_iv, packet[data_at:] + packet[tag_at:data_at], ad)
        self.window.mark(number)
        self.packets_received += 1
        self.bytes_received += len(plaintext)
        return plaintext
