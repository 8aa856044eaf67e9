# SPDX-License-Identifier: BSD-2-Clause
"""The options string ("OCC"): a comparison of settings in key method 2.

A mismatch only ever warned; what is still used of the string is the cipher of a peer that cannot negotiate.
Source: wire-protocol draft, "Options string"; OpenVPN options_string.c.
"""

from __future__ import annotations

from qubes_miragevpn.config.model import Common, Family, Proto, TlsAuth

_KEY_BITS = {"AES-256-GCM": 256, "AES-128-GCM": 128, "CHACHA20-POLY1305": 256}
_LINK_OVERHEAD = 49  # what OpenVPN adds to tun-mtu in the string for AES-256-GCM over UDP (test_crypto.c: 1400 -> 1449)


def build(common: Common, proto: Proto, family: Family, *, server: bool) -> str:
    """Our options string for one transport."""
    cipher = common.data_ciphers_fallback or common.data_ciphers[0]
    version = "6" if family is Family.IPV6 else "4"
    transport = f"UDPv{version}" if proto is Proto.UDP else f"TCPv{version}_{'SERVER' if server else 'CLIENT'}"
    parts = [
        "V4",
        "dev-type tun",
        f"link-mtu {common.tun_mtu + _LINK_OVERHEAD + (2 if proto is Proto.TCP else 0)}",
        f"tun-mtu {common.tun_mtu}",
        f"proto {transport}",
        f"cipher {cipher}",
        "auth [null-digest]",
        f"keysize {_KEY_BITS.get(cipher, 256)}",
    ]
    if isinstance(common.wrap, TlsAuth):
        parts.append("tls-auth")
    return ",".join((*parts, "key-method 2", "tls-server" if server else "tls-client"))


def cipher_of(options: str) -> str | None:
    """The cipher that a peer's options string names, or None."""
    for part in options.split(","):
        word, _, value = part.partition(" ")
        if word == "cipher" and value:
            return value
    return None
