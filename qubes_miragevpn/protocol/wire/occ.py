# SPDX-License-Identifier: BSD-2-Clause
"""The options string ("OCC"): a comparison of settings in key method 2.

A mismatch only ever warned; what is still used of the string is the cipher of a peer that cannot negotiate.
Source: wire-protocol draft, "Options string"; OpenVPN options_string.c.
"""

from __future__ import annotations

from qubes_miragevpn.config.model import Common, Compression, Family, Proto, TlsAuth
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.protocol.sizes import COMPRESSION_BYTE, Carrier

NO_CIPHER, NO_DIGEST = "[null-cipher]", "[null-digest]"


def build(common: Common, proto: Proto, family: Family, *, server: bool) -> str:
    """Our options string for one transport."""
    suite = SUITES[common.data_ciphers_fallback or common.data_ciphers[0]]
    digest = "" if suite.mode is Mode.AEAD else common.digest
    framing, fragment = common.compression, bool(common.fragment) and proto is Proto.UDP
    byte = framing in COMPRESSION_BYTE
    carrier = Carrier(suite, digest, stream=proto is Proto.TCP, compression_byte=byte, fragment=fragment)
    version = "6" if family is Family.IPV6 else "4"
    transport = f"UDPv{version}" if proto is Proto.UDP else f"TCPv{version}_{'SERVER' if server else 'CLIENT'}"
    parts = [
        "V4",
        "dev-type tun",
        f"link-mtu {carrier.link_mtu(common.tun_mtu)}",
        f"tun-mtu {common.tun_mtu}",
        f"proto {transport}",
        *(["comp-lzo"] if framing is not Compression.NONE else []),  # whichever it is, for peers that look for it
        *(["mtu-dynamic"] if fragment else []),
        f"cipher {NO_CIPHER if suite.mode is Mode.CLEAR else suite.name}",
        f"auth {digest or NO_DIGEST}",
        f"keysize {suite.key_size * 8}",
    ]
    if isinstance(common.wrap, TlsAuth):
        parts.append("tls-auth")
    return ",".join((*parts, "key-method 2", "tls-server" if server else "tls-client"))


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
