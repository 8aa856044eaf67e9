# SPDX-License-Identifier: BSD-2-Clause
"""What the tests of the data plane build their scenes from: keys, inner packets, data channels joined in memory."""

from __future__ import annotations

from ipaddress import ip_address

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.dataplane.interface import DataKeys, DirectionKeys, PeerLimits, SockAddr
from qubes_miragevpn.dataplane.reference import DataChannel

HERE: SockAddr = ("192.0.2.1", 1194)
THERE: SockAddr = ("192.0.2.2", 40000)
ELSEWHERE: SockAddr = ("203.0.113.9", 40000)
AES = "AES-256-GCM"


def data_keys(suite: str = AES, seed: int = 1, *, reverse: bool = False) -> DataKeys:
    """Fixed keys; the other side's are the same ones with `reverse`."""
    facts = SUITES[suite]
    digest = "" if facts.mode is Mode.AEAD else "SHA256"
    ways = [
        DirectionKeys(
            Secret(bytes(range(seed + n, seed + n + facts.key_size))),
            Secret(bytes([seed + n + 9]) * facts.implicit_iv_size),
            Secret(bytes([seed + n + 7]) * 32 if digest else b""),
        )
        for n in (0, 100)
    ]
    if reverse:
        ways.reverse()
    return DataKeys(suite, *ways, digest)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_packet(source: str, destination: str, payload: bytes = b"hello", protocol: int = 17, **ipv4: int) -> bytes:
    """An inner packet; `ipv4` may set `fragment` (the 16 bits of flags and offset)."""
    ends = ip_address(source).packed + ip_address(destination).packed
    if len(ends) == 32:
        return b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes([protocol, 64]) + ends + payload
    fragment = ipv4.get("fragment", 0).to_bytes(2, "big")
    head = b"\x45\0" + (20 + len(payload)).to_bytes(2, "big") + b"\0\1" + fragment + bytes([64, protocol, 0, 0]) + ends
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def tcp_packet(source: str, destination: str, options: bytes = b"", flags: int = 0x02, fragment: int = 0) -> bytes:
    """An inner TCP segment with a right checksum; `options` are padded to whole words."""
    options += b"\0" * (-len(options) % 4)
    segment = b"\x9c\x40\x00\x50" + b"\1\2\3\4" + bytes(4) + bytes([(20 + len(options)) // 4 << 4, flags])
    segment += b"\xff\xff" + bytes(4) + options
    ends = ip_address(source).packed + ip_address(destination).packed
    sum_ = checksum(ends + len(segment).to_bytes(4, "big") + b"\0\0\0\6" + segment)
    segment = segment[:16] + sum_.to_bytes(2, "big") + segment[18:]
    return ip_packet(source, destination, segment, protocol=6, fragment=fragment)


def client(suite: str = AES, peer_id: int = 7, limits: PeerLimits | None = None) -> DataChannel:
    """A client's channel with one peer (handle 1, link 1) and key 0 in use; its clock is at 100."""
    channel = DataChannel()
    channel.add_peer(1, 1, HERE, peer_id, limits or PeerLimits())
    channel.install_key(1, 0, data_keys(suite), 100.0)
    channel.activate_key(1, 0, 100.0)
    return channel


def far_end(suite: str = AES, peer_id: int = 7, limits: PeerLimits | None = None) -> DataChannel:
    """The channel at the other end of `client`: one unrestricted peer, seen at `THERE`."""
    channel = DataChannel()
    channel.add_peer(1, 1, THERE, peer_id, limits or PeerLimits())
    channel.install_key(1, 0, data_keys(suite, reverse=True), 100.0)
    channel.activate_key(1, 0, 100.0)
    return channel


def wire(channel: DataChannel, inner: bytes, now: float = 100.0) -> bytes:
    """What `channel` sends for `inner`; there must be something."""
    outgoing = channel.send(inner, now)
    assert outgoing is not None
    return outgoing[2]
