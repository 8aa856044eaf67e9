# SPDX-License-Identifier: BSD-2-Clause
"""How many bytes a data packet adds to what it carries: OpenVPN's arithmetic (mtu.c, mss.c), number for number.

A packet, from the outside in: IP and transport header (not counted in here); on TCP a length of 2; opcode, or opcode
and peer id; what the format needs; and the payload, which begins with the fragment header (4) and the byte of the
compression framing where these are in use, and in CBC with the packet id. Both sides' options strings name the sum,
computed as OpenVPN 2.3 did it ("occ"): one byte of opcode, and a spare block and IV for formats that need none.
"""

from __future__ import annotations

from dataclasses import dataclass

from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.crypto.digests import digest_size
from qubes_miragevpn.crypto.suites import Mode, Suite

PACKET_ID_SIZE = 4
EPOCH_PACKET_ID_SIZE = 8
LONG_PACKET_ID_SIZE = 8
STREAM_LENGTH_SIZE = 2
COMPRESSION_BYTE = frozenset({Compression.STUB_LZO, Compression.LZO, Compression.STUB, Compression.LZ4})
"""Framings that add a byte to every packet; the second versions add two to packets that do not occur."""
FRAGMENT_HEADER_SIZE = 4
ETHERNET_ROOM = 32  # for the frame's header, and more (openvpn's ``tun-mtu-extra`` of TAP)
IPV4_TCP_HEADERS = 20 + 20
_AEAD_NONCE_SIZE = 12
_AEAD_BLOCK_SIZE = 16  # what OpenVPN takes for the block of GCM; ChaCha20-Poly1305, a stream, has blocks of 1
_STREAM_BLOCK_SIZE = 1


@dataclass(frozen=True)
class Carrier:
    """What a data channel is made of, as far as sizes depend on it."""

    suite: Suite
    digest: str = ""  # of the HMAC, where the suite needs one
    stream: bool = False  # TCP
    peer_id: bool = True  # DATA_V2
    compression_byte: bool = False
    fragment: bool = False
    epoch: bool = False
    static: bool = False  # the static key mode: no opcode, and a time beside the packet id
    ethernet: bool = False

    def header_size(self) -> int:
        """Bytes in front of and behind the payload."""
        opcode = 0 if self.static else 4 if self.peer_id else 1
        return self._transport_size() + opcode + self._crypto_size(occ=False)

    def payload_overhead(self) -> int:
        """Bytes at the beginning of the payload."""
        size = FRAGMENT_HEADER_SIZE if self.fragment else 0
        size += ETHERNET_ROOM if self.ethernet else 0
        size += 1 if self.compression_byte else 0
        return size + ((LONG_PACKET_ID_SIZE if self.static else PACKET_ID_SIZE) if self.suite.mode is Mode.CBC else 0)

    def link_mtu(self, tun_mtu: int) -> int:
        """The ``link-mtu`` of the options string."""
        opcode = 0 if self.static else 1
        return tun_mtu + self.payload_overhead() + self._transport_size() + opcode + self._crypto_size(occ=True)

    def packet_size(self, payload: int) -> int:
        """How long a packet with so many bytes behind the beginning of its payload is."""
        inner = self.payload_overhead() + payload
        if self.suite.mode is Mode.CBC:
            inner += self.suite.block_size - inner % self.suite.block_size
        return self.header_size() + inner

    def payload_room(self, size: int) -> int:
        """How long the payload may be in a packet of `size` bytes: CBC pads to whole blocks, by one byte at least."""
        room = size - self.header_size()
        if self.suite.mode is not Mode.CBC:
            return room
        return room - room % self.suite.block_size - 1

    def _transport_size(self) -> int:
        return STREAM_LENGTH_SIZE if self.stream else 0

    def _crypto_size(self, *, occ: bool) -> int:
        suite = self.suite
        if suite.mode is Mode.AEAD:
            block = _STREAM_BLOCK_SIZE if suite.name == "CHACHA20-POLY1305" else _AEAD_BLOCK_SIZE
            packet_id = EPOCH_PACKET_ID_SIZE if self.epoch and not occ else PACKET_ID_SIZE
            return packet_id + suite.tag_size + (_AEAD_NONCE_SIZE + block if occ else 0)
        hmac_size = digest_size(self.digest) if self.digest else 0
        if suite.mode is Mode.CLEAR:
            return PACKET_ID_SIZE + hmac_size
        return hmac_size + suite.block_size * (2 if occ else 1)
