# SPDX-License-Identifier: BSD-2-Clause
"""What a packet on sys-vpn's uplink is: tunnel transport, our lookup of a provider's name, the link's own, or *clear*.

An allowlist: whatever is not recognised is clear. Ethernet II frames, IPv4, IPv6 (RFC 791, 8200), ARP (RFC 826),
neighbour discovery (RFC 4861), DNS questions (RFC 1035).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

ETH_IPV4, ETH_ARP, ETH_IPV6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
ND_TYPES = (133, 134, 135, 136)  # router and neighbour solicitation and advertisement
ICMP_ERRORS = (3, 11, 12)  # destination unreachable, time exceeded, parameter problem
MLD_TYPES = (130, 131, 132, 143)
LINK_LOCAL6 = (IPv6Address("fe80::"), IPv6Address("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))

Address = IPv4Address | IPv6Address


class Kind(Enum):
    """What a packet is to the one who counts leaks."""

    TUNNEL = "tunnel transport"
    LOOKUP = "lookup of a provider's name"
    LINK = "ARP, neighbour discovery"
    CLEAR = "clear"


@dataclass(frozen=True)
class Allowed:
    """What may be seen on the uplink between `ours` and the rest of the world.

    `transports` are (protocol number, address, port) of the providers, `names` what may be looked up at `resolvers`;
    `links` are the addresses at the two ends of the uplink. A packet that bears one of `marks` anywhere came from an
    AppVM, or from a program of sys-vpn's own.
    """

    ours: frozenset[Address]
    links: frozenset[Address]
    transports: frozenset[tuple[int, Address, int]]
    names: frozenset[str]
    resolvers: frozenset[Address]
    marks: tuple[bytes, ...]
    rewritten: frozenset[Address] = frozenset()  # see `_later_fragment`

    def kind(self, frame: bytes) -> Kind:
        """Classify an Ethernet frame; anything short or odd is clear."""
        try:
            return Kind.CLEAR if any(mark in frame for mark in self.marks) else self._kind(frame)
        except (struct.error, IndexError, ValueError):
            return Kind.CLEAR

    def _kind(self, frame: bytes) -> Kind:
        (ethertype,) = struct.unpack_from("!H", frame, 12)
        packet = frame[14:]
        if ethertype == ETH_ARP:
            ends = {IPv4Address(packet[14:18]), IPv4Address(packet[24:28])}
            return Kind.LINK if ends <= self.links else Kind.CLEAR
        if ethertype == ETH_IPV4:
            return self._ipv4(packet)
        ip = read_ip(ethertype, packet)
        return self._neighbour(ip) if ip.protocol == ICMPV6 else Kind.CLEAR

    def _ipv4(self, packet: bytes) -> Kind:
        ip = read_ip(ETH_IPV4, packet)
        if ip.later_fragment:
            return self._later_fragment(ip)
        if ip.protocol == ICMP and ip.target in self.ours and ip.payload[0] in ICMP_ERRORS:
            return self._ipv4(ip.payload[8:])  # an error about a packet of ours is what that packet was
        if ip.protocol not in (TCP, UDP):
            return Kind.CLEAR
        source_port, target_port = struct.unpack_from("!HH", ip.payload)
        if ip.source in self.ours:
            local, far, far_port = ip.source, ip.target, target_port
        else:
            local, far, far_port = ip.target, ip.source, source_port
        if local not in self.ours:
            return Kind.CLEAR
        if (ip.protocol, far, far_port) in self.transports:
            return Kind.TUNNEL
        if ip.protocol == UDP and far in self.resolvers and far_port == 53:
            return Kind.LOOKUP if dns_name(ip.payload[8:]) in self.names else Kind.CLEAR
        return Kind.CLEAR

    def _later_fragment(self, ip: Ip) -> Kind:
        """A piece without ports, of a transport packet that carries a full-sized packet: judged by its addresses.

        sys-net reassembles, translates and fragments again, writing headers into a buffer that the capture in
        sys-vpn still shares: there a later fragment shows sys-net's address (`rewritten`).
        """
        pair = {ip.source, ip.target}
        far = {address for protocol, address, _port in self.transports if protocol == ip.protocol} & pair
        near = (self.ours | self.rewritten) & pair
        return Kind.TUNNEL if far and near and len(far | near) == 2 else Kind.CLEAR

    def _neighbour(self, ip: Ip) -> Kind:
        kind = ip.payload[0]
        source_ok = ip.source in self.links or _is_link_local(ip.source) or int(ip.source) == 0
        if kind in MLD_TYPES:
            return Kind.LINK if source_ok else Kind.CLEAR
        if kind not in ND_TYPES or not source_ok:
            return Kind.CLEAR
        if kind in (135, 136):
            target = IPv6Address(ip.payload[8:24])
            return Kind.LINK if target in self.links or _is_link_local(target) else Kind.CLEAR
        return Kind.LINK


@dataclass(frozen=True)
class Ip:
    """An IP packet, as much of it as is needed to judge it; `payload` is what follows the headers."""

    source: Address
    target: Address
    protocol: int
    fragment: bool
    later_fragment: bool
    payload: bytes


def read_ip(ethertype: int, packet: bytes) -> Ip:
    """Read the IP header; raises ValueError or struct.error on anything else."""
    if ethertype == ETH_IPV4:
        header = (packet[0] & 15) * 4
        (fragment,) = struct.unpack_from("!H", packet, 6)
        addresses = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        return Ip(*addresses, packet[9], bool(fragment & 0x3FFF), bool(fragment & 0x1FFF), packet[header:])
    if ethertype != ETH_IPV6:
        raise ValueError(f"ethertype {ethertype:#06x}")
    protocol, payload = packet[6], packet[40:]
    if protocol == 0:  # hop-by-hop options, as MLD has them
        protocol, payload = payload[0], payload[8 * (payload[1] + 1) :]
    fragmented = protocol == 44
    return Ip(IPv6Address(packet[8:24]), IPv6Address(packet[24:40]), protocol, fragmented, fragmented, payload)


def _is_link_local(address: Address) -> bool:
    return isinstance(address, IPv6Address) and LINK_LOCAL6[0] <= address <= LINK_LOCAL6[1]


def dns_name(message: bytes) -> str:
    """The name in the first question of a DNS message, lower case."""
    labels, position = [], 12
    while length := message[position]:
        if length > 63:
            raise ValueError("a compressed question")
        labels.append(message[position + 1 : position + 1 + length].decode("ascii").lower())
        position += 1 + length
    return ".".join(labels)


PROTOCOLS = {TCP: "TCP", UDP: "UDP", ICMP: "ICMP", ICMPV6: "ICMP"}


def label(frame: bytes) -> str:
    """Version and protocol of a frame: "IPv4 UDP", "IPv6 ICMP", "IPv4 UDP fragment", "ARP", "other"."""
    try:
        (ethertype,) = struct.unpack_from("!H", frame, 12)
        if ethertype == ETH_ARP:
            return "ARP"
        ip = read_ip(ethertype, frame[14:])
    except (struct.error, IndexError, ValueError):
        return "other"
    name = PROTOCOLS.get(ip.protocol, f"protocol {ip.protocol}")
    return f"IPv{ip.source.version} {name}" + (" fragment" if ip.fragment else "")


def target(frame: bytes) -> Address | None:
    """Where a frame's packet goes, or whom an ARP frame asks for; None for anything else."""
    try:
        (ethertype,) = struct.unpack_from("!H", frame, 12)
        return IPv4Address(frame[38:42]) if ethertype == ETH_ARP else read_ip(ethertype, frame[14:]).target
    except (struct.error, IndexError, ValueError):
        return None


def describe(frame: bytes) -> str:
    """One line about a frame, for the report of a leak."""
    try:
        (ethertype,) = struct.unpack_from("!H", frame, 12)
        if ethertype == ETH_ARP:
            return f"ARP {IPv4Address(frame[28:32])} asks for {IPv4Address(frame[38:42])}"
        ip = read_ip(ethertype, frame[14:])
        ports = struct.unpack_from("!HH", ip.payload) if ip.protocol in (TCP, UDP) and not ip.fragment else None
        detail = f"port {ports[0]} to {ports[1]}" if ports else f"type {ip.payload[0]}" if ip.payload else ""
        return f"{label(frame)} {ip.source} > {ip.target} {detail}, {len(frame)} bytes"
    except (struct.error, IndexError, ValueError):
        return f"frame {frame[:40].hex()}, {len(frame)} bytes"
