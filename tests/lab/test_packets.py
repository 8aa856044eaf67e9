# SPDX-License-Identifier: BSD-2-Clause
"""The judgement of packets: frames made by hand; every branch of the allowlist allows and refuses something."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.lab.capture import allowed
from tests.lab.packets import Kind, describe, label
from tests.lab.places import NET4, SITE_A, SITE_B
from tests.lab.programs.noise import MARK

OURS, GATEWAY, APPVM = "10.137.0.6", "10.137.0.5", "10.137.0.21"
OURS6, APPVM6 = "fd09:24ef:4179::a89:6", "fd09:24ef:4179::a89:15"
MACS = bytes(12)


def ip4(source: str, target: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    """An Ethernet frame with an IPv4 packet."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0)
    return MACS + b"\x08\x00" + header + addresses + payload


def ip6(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """An Ethernet frame with an IPv6 packet."""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    return MACS + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload


def ports(source: int, target: int, rest: bytes = b"payload") -> bytes:
    """The beginning of a TCP or UDP header, which is all that is looked at."""
    return struct.pack("!HHHH", source, target, 8 + len(rest), 0) + rest


def question(name: str) -> bytes:
    """A DNS query."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def arp(sender: str, target: str) -> bytes:
    """An ARP request."""
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes(6) + socket.inet_aton(sender)
    return MACS + b"\x08\x06" + body + bytes(6) + socket.inet_aton(target)


def solicitation(source: str, target: str) -> bytes:
    """An IPv6 neighbour solicitation."""
    return ip6(
        source, "ff02::1:ff00:5", 58, bytes([135, 0, 0, 0]) + bytes(4) + socket.inet_pton(socket.AF_INET6, target)
    )


A, B = SITE_A.public4, SITE_B.public4
DNS = "10.139.1.1"
ERROR = bytes([3, 3]) + bytes(6)
CASES = {
    "transport of A": (ip4(OURS, A, 17, ports(40000, 1194)), Kind.TUNNEL),
    "its answer": (ip4(A, OURS, 17, ports(1194, 40000)), Kind.TUNNEL),
    "transport of B": (ip4(OURS, B, 6, ports(40000, 443)), Kind.TUNNEL),
    "A by TCP": (ip4(OURS, A, 6, ports(40000, 1194)), Kind.CLEAR),
    "another port of A": (ip4(OURS, A, 17, ports(40000, 53)), Kind.CLEAR),
    "A's source port the other way": (ip4(OURS, A, 17, ports(1194, 40000)), Kind.CLEAR),
    "an AppVM to A": (ip4(APPVM, A, 17, ports(40000, 1194)), Kind.CLEAR),
    "A to an AppVM": (ip4(A, APPVM, 17, ports(1194, 40000)), Kind.CLEAR),
    "an AppVM masqueraded to A": (ip4(OURS, A, 17, ports(40000, 1194, MARK)), Kind.CLEAR),
    "a first fragment to A": (ip4(OURS, A, 17, ports(40000, 1194), fragment=0x2000), Kind.TUNNEL),
    "a later fragment to A": (ip4(OURS, A, 17, ports(7, 9), fragment=0x20B9), Kind.TUNNEL),
    "a later fragment from A": (ip4(A, OURS, 17, ports(7, 9), fragment=0xB9), Kind.TUNNEL),
    "a later fragment, rewritten": (ip4(NET4, A, 17, ports(7, 9), fragment=0xB9), Kind.TUNNEL),
    "a later fragment with the mark": (ip4(OURS, A, 17, ports(7, 9, MARK), fragment=0xB9), Kind.CLEAR),
    "a later fragment of an AppVM": (ip4(APPVM, A, 17, ports(7, 9), fragment=0xB9), Kind.CLEAR),
    "a later TCP fragment to A": (ip4(OURS, A, 6, ports(7, 9), fragment=0xB9), Kind.CLEAR),
    "a later fragment to the web": (ip4(OURS, "203.0.113.80", 17, ports(7, 9), fragment=0xB9), Kind.CLEAR),
    "a first fragment to the web": (ip4(OURS, "203.0.113.80", 17, ports(7, 9), fragment=0x2000), Kind.CLEAR),
    "an unchanged packet of sys-net": (ip4(NET4, A, 17, ports(40000, 1194)), Kind.CLEAR),
    "web": (ip4(OURS, "203.0.113.80", 6, ports(40000, 80)), Kind.CLEAR),
    "lookup of a provider": (ip4(OURS, DNS, 17, ports(40000, 53, question("a.vpn.lab"))), Kind.LOOKUP),
    "the answer to it": (ip4(DNS, OURS, 17, ports(53, 40000, question("A.vpn.lab"))), Kind.LOOKUP),
    "another lookup": (ip4(OURS, DNS, 17, ports(40000, 53, question("web.lab"))), Kind.CLEAR),
    "lookup by TCP": (ip4(OURS, DNS, 6, ports(40000, 53, question("a.vpn.lab"))), Kind.CLEAR),
    "lookup elsewhere": (ip4(OURS, "203.0.113.53", 17, ports(40000, 53, question("a.vpn.lab"))), Kind.CLEAR),
    "half a lookup": (ip4(OURS, DNS, 17, ports(40000, 53, question("a.vpn.lab")[:15])), Kind.CLEAR),
    "an error about our transport": (ip4(A, OURS, 1, ERROR + ip4(OURS, A, 17, ports(4, 1194))[14:]), Kind.TUNNEL),
    "an error from a router": (ip4("192.0.2.1", OURS, 1, ERROR + ip4(OURS, A, 17, ports(4, 1194))[14:]), Kind.TUNNEL),
    "an error of ours": (ip4(OURS, A, 1, ERROR + ip4(A, OURS, 17, ports(1194, 4))[14:]), Kind.CLEAR),
    "an error about an AppVM's packet": (ip4(A, OURS, 1, ERROR + ip4(APPVM, A, 17, ports(4, 1194))[14:]), Kind.CLEAR),
    "an error about a page": (ip4(A, OURS, 1, ERROR + ip4(OURS, "203.0.113.80", 6, ports(4, 80))[14:]), Kind.CLEAR),
    "ping": (ip4(OURS, A, 1, bytes([8, 0]) + bytes(6)), Kind.CLEAR),
    "arp of the link": (arp(OURS, GATEWAY), Kind.LINK),
    "arp for somebody else": (arp(OURS, A), Kind.CLEAR),
    "arp from an AppVM": (arp(APPVM, GATEWAY), Kind.CLEAR),
    "solicitation of the link": (solicitation(OURS6, "fd09:24ef:4179::a89:5"), Kind.LINK),
    "solicitation, link-local": (solicitation("fe80::1", "fe80::2"), Kind.LINK),
    "solicitation for the web": (solicitation(OURS6, "2001:db8:80::80"), Kind.CLEAR),
    "solicitation from an AppVM": (solicitation(APPVM6, "fd09:24ef:4179::a89:5"), Kind.CLEAR),
    "router solicitation": (ip6("fe80::1", "ff02::2", 58, bytes([133]) + bytes(7)), Kind.LINK),
    "multicast report": (ip6("::", "ff02::16", 0, bytes([58, 0]) + bytes(6) + bytes([143]) + bytes(7)), Kind.LINK),
    "ping6": (ip6(OURS6, SITE_A.public6, 58, bytes([128]) + bytes(7)), Kind.CLEAR),
    "udp6": (ip6(OURS6, SITE_A.public6, 17, ports(40000, 1194)), Kind.CLEAR),
    "something else": (MACS + b"\x88\xcc" + bytes(40), Kind.CLEAR),
    "a short frame": (MACS + b"\x08", Kind.CLEAR),
    "a short IPv4 packet": (MACS + b"\x08\x00\x45", Kind.CLEAR),
}


@pytest.mark.parametrize("name", CASES)
def test_kind(name: str) -> None:
    """Each frame is what its name says."""
    frame, kind = CASES[name]
    assert allowed().kind(frame) is kind
    assert label(frame) and describe(frame)
