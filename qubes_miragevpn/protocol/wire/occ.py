# SPDX-License-Identifier: BSD-2-Clause
"""The options string ("OCC"): a comparison of settings in key method 2.

A mismatch only ever warned; what is still used of the string is the cipher of a peer that cannot negotiate.
Source: wire-protocol draft, "Options string"; OpenVPN options_string.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Common, Compression, Family, Proto, TlsAuth
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.protocol.sizes import COMPRESSION_BYTE, ETHERNET_ROOM, Carrier

MAX_OPTIONS = 40  # of a peer's string; openvpn writes about fifteen
MAX_MISMATCHES = 10  # that are told
_NOT_COMPARED = frozenset({"key-method", "keydir", "proto", "tls-auth", "tun-ipv6", "cipher"})

NO_CIPHER, NO_DIGEST = "[null-cipher]", "[null-digest]"


@dataclass(frozen=True)
class StaticEnd:
    """What one end of a static key says besides: the direction of its key, its own address and the other's."""

    cipher: str
    direction: int | None
    local: str
    remote: str

    def other(self) -> StaticEnd:
        """What the other end should say."""
        direction = None if self.direction is None else 1 - self.direction
        return StaticEnd(self.cipher, direction, self.remote, self.local)


def build(common: Common, proto: Proto, family: Family, *, server: bool, static: StaticEnd | None = None) -> str:
    """Our options string for one transport; `server`: we are that, or the end that TCP connections are made to."""
    suite = SUITES[static.cipher if static else common.data_ciphers_fallback or common.data_ciphers[0]]
    digest = "" if suite.mode is Mode.AEAD else common.digest
    framing, fragment = common.compression, bool(common.fragment) and proto is Proto.UDP
    byte = framing in COMPRESSION_BYTE
    stream = proto is Proto.TCP
    carrier = Carrier(suite, digest, stream=stream, compression_byte=byte, fragment=fragment, static=static is not None)
    version = "6" if family is Family.IPV6 else "4"
    transport = f"UDPv{version}" if proto is Proto.UDP else f"TCPv{version}_{'SERVER' if server else 'CLIENT'}"
    parts = [
        "V4",
        f"dev-type {'tap' if common.ethernet else 'tun'}",
        f"link-mtu {carrier.link_mtu(common.tun_mtu)}",
        f"tun-mtu {common.tun_mtu + (ETHERNET_ROOM if common.ethernet else 0)}",
        f"proto {transport}",
        *([f"ifconfig {static.remote} {static.local}"] if static and static.local else []),
        *(["comp-lzo"] if framing is not Compression.NONE else []),  # whichever it is, for peers that look for it
        *(["mtu-dynamic"] if fragment else []),
        *([f"keydir {static.direction}"] if static and static.direction is not None else []),
        f"cipher {NO_CIPHER if suite.mode is Mode.CLEAR else suite.name}",
        f"auth {digest or NO_DIGEST}",
        f"keysize {suite.key_size * 8}",
    ]
    if static:
        return ",".join((*parts, "secret"))
    if isinstance(common.wrap, TlsAuth):
        parts.append("tls-auth")
    return ",".join((*parts, "key-method 2", "tls-server" if server else "tls-client"))


def mismatches(expected: str, theirs: str, *, settled: frozenset[str] = frozenset()) -> list[str]:
    """How the peer's options string differs from what ours wants it to be, in openvpn's words, printable.

    Options of `settled` names are left out, and so are those that openvpn does not compare any more. Strings of
    different versions are not compared at all.
    """
    if not theirs or expected[:2] != theirs[:2]:
        return []
    silent = settled | _NOT_COMPARED
    ours, other = _by_name(expected), _by_name(theirs)
    found = []
    for name in (*ours, *(name for name in other if name not in ours)):
        here, there = ours.get(name), other.get(name)
        if name in silent or here == there:
            continue
        if there is None:
            told = f"present in local config but missing in remote config, local='{here}'"
        elif here is None:
            told = f"present in remote config but missing in local config, remote='{printable(there, 60)}'"
        else:
            told = f"used inconsistently, local='{here}', remote='{printable(there, 60)}'"
        found.append(f"'{printable(name, 30)}' is {told}")
    return found[:MAX_MISMATCHES]


def _by_name(options: str) -> dict[str, str]:
    return {part.partition(" ")[0]: part for part in options.split(",")[1:MAX_OPTIONS] if part}


def cipher_of(options: str) -> str | None:
    """The cipher that a peer's options string names, or None."""
    return _value(options, "cipher")


def digest_of(options: str) -> str | None:
    """The digest that a peer's options string names, or None."""
    return _value(options, "auth")


def _value(options: str, name: str) -> str | None:
    for part in options.split(","):
        word, _, value = part.partition(" ")
        if word == name and value:
            return value
    return None
