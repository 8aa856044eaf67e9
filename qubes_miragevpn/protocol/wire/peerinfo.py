# SPDX-License-Identifier: BSD-2-Clause
"""Peer info: ``KEY=VALUE`` lines in which a client says what it can do, and the IV_PROTO bits.

Source: OpenVPN ssl.c push_peer_info, ssl.h IV_PROTO_*. A bit stands in `OUR_PROTO` only if what it promises is
implemented.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag


class IvProto(IntFlag):
    """The IV_PROTO bits that we implement."""

    DATA_V2 = 1 << 1
    REQUEST_PUSH = 1 << 2  # the server may push without being asked
    TLS_KEY_EXPORT = 1 << 3  # data keys by TLS exporter
    AUTH_PENDING_KW = 1 << 4  # AUTH_PENDING with a timeout
    NCP_P2P = 1 << 5  # agreement between two equals, where nobody pushes
    CC_EXIT_NOTIFY = 1 << 7  # EXIT as a control message
    AUTH_FAIL_TEMP = 1 << 8  # AUTH_FAILED,TEMP
    DYN_TLS_CRYPT = 1 << 9  # renegotiations protected by a key of the session's own
    DATA_EPOCH = 1 << 10  # data packets in the epoch format
    PUSH_UPDATE = 1 << 12  # settings that change while the tunnel works


OUR_PROTO = (
    IvProto.DATA_V2
    | IvProto.REQUEST_PUSH
    | IvProto.TLS_KEY_EXPORT
    | IvProto.AUTH_PENDING_KW
    | IvProto.CC_EXIT_NOTIFY
    | IvProto.AUTH_FAIL_TEMP
    | IvProto.DYN_TLS_CRYPT
    | IvProto.DATA_EPOCH
    | IvProto.PUSH_UPDATE
)
POINT_PROTO = (
    IvProto.DATA_V2 | IvProto.TLS_KEY_EXPORT | IvProto.NCP_P2P | IvProto.CC_EXIT_NOTIFY | IvProto.DYN_TLS_CRYPT
)
"""Said where nobody pushes. Not the epoch format: a peer that knows it would use it unasked, or not; no text says."""
MAX_LINES = 64
"""A peer that says more is cut off there; OpenVPN's own client sends fewer than 20 lines."""


@dataclass(frozen=True)
class PeerCan:
    """What a client's peer info says, as far as the server needs it."""

    proto: int
    ciphers: tuple[str, ...]
    mtu: bool  # understands a pushed tun-mtu
    peer_id: int | None = None  # wants to receive data packets with this (tunnels between two)


def build(version: str, ciphers: tuple[str, ...], mtu: int = 1600, more: tuple[tuple[str, str], ...] = ()) -> str:
    """A client's peer info; `mtu` is the largest that a server may push, `more` what ``push-peer-info`` adds to it."""
    lines = [
        f"IV_VER={version}",
        "IV_PLAT=linux",
        "IV_TCPNL=1",
        f"IV_MTU={mtu}",
        *(["IV_NCP=2"] if {"AES-128-GCM", "AES-256-GCM"} <= set(ciphers) else []),
        f"IV_CIPHERS={':'.join(ciphers)}",
        f"IV_PROTO={int(OUR_PROTO)}",
        "IV_LZO_STUB=1",
        "IV_COMP_STUB=1",
        "IV_COMP_STUBv2=1",
        "IV_SSO=webauth,openurl,crtext",
        *(f"{name}={value}" for name, value in more),
    ]
    return "".join(line + "\n" for line in lines)


def build_point(version: str, ciphers: tuple[str, ...], more: tuple[tuple[str, str], ...] = ()) -> str:
    """What either end of a tunnel between two says of itself."""
    lines = [
        f"IV_VER={version}",
        "IV_PLAT=linux",
        f"IV_CIPHERS={':'.join(ciphers)}",
        f"IV_PROTO={int(POINT_PROTO)}",
        *(f"{name}={value}" for name, value in more),
    ]
    return "".join(line + "\n" for line in lines)


def parse(untrusted: str) -> PeerCan:
    """Read a client's peer info; what cannot be understood counts as not said."""
    pairs: dict[str, str] = {}
    for line in untrusted.split("\n")[:MAX_LINES]:
        key, equals, value = line.partition("=")
        if equals:
            pairs.setdefault(key, value)
    return PeerCan(
        proto=_number(pairs, "IV_PROTO"),
        ciphers=_ciphers(pairs),
        mtu=_number(pairs, "IV_MTU") > 0,
        peer_id=_peer_id(pairs.get("ID", "")),
    )


def _peer_id(text: str) -> int | None:
    """A hexadecimal number of 24 bits; the largest one means none."""
    if not re.fullmatch(r"[0-9A-Fa-f]{1,6}", text) or int(text, 16) == 0xFFFFFF:
        return None
    return int(text, 16)


def _number(pairs: Mapping[str, str], key: str) -> int:
    text = pairs.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0


def _ciphers(pairs: Mapping[str, str]) -> tuple[str, ...]:
    said = tuple(name for name in pairs.get("IV_CIPHERS", "").split(":")[:32] if name)
    if not said and _number(pairs, "IV_NCP") >= 2:
        return ("AES-256-GCM", "AES-128-GCM")
    return said
