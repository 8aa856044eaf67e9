# SPDX-License-Identifier: BSD-2-Clause
"""A server's association with one client, and what is pushed to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface

from qubes_miragevpn.config.model import ServerConfig
from qubes_miragevpn.crypto.token import Token
from qubes_miragevpn.dataplane.interface import Link, SockAddr
from qubes_miragevpn.protocol.session import Session
from qubes_miragevpn.protocol.wire.peerinfo import IvProto, PeerCan

EXIT_DELAY = 1.0
"""Seconds between a farewell, ours or the client's, and our forgetting it, so that the last packets get through."""

_CAN_NOTHING = PeerCan(proto=0, ciphers=(), mtu=False)


@dataclass
class Peer:
    """One association: a candidate, then `admitted` (authenticated), then `served` (it has keys and a place)."""

    number: int
    link: Link
    endpoint: SockAddr
    session: Session
    began: float
    name: str = ""
    username: str = ""
    certified: str = ""  # the common name of its certificate
    attempt: int = 0  # how often a verdict on its login was asked for
    judged_until: float | None = None  # such a verdict is awaited, so long
    refusal: tuple[str, str] | None = None  # why it may not enter, and what it is told; not said yet
    refused: bool = False
    token: Token | None = None  # by which it may come back without its password
    extra: tuple[str, ...] = ()  # options that it is pushed besides
    asked: bool = False  # it wants to be served
    can: PeerCan = _CAN_NOTHING
    cipher: str = ""
    ekm: bool = False
    epoch: bool = False  # data packets have the epoch format
    dynamic_tls_crypt: bool = False
    admitted: bool = False
    lease: IPv4Interface | None = None
    key_id: int = 0  # the newest established key
    served: bool = False
    leaves_at: float = float("inf")
    installed: set[int] = field(default_factory=set)

    @property
    def judged(self) -> bool:
        """Whether a verdict on its login is awaited."""
        return self.judged_until is not None


def can_epochs(can: PeerCan) -> bool:
    """Whether a client may be told to use the epoch format: it knows that, peer ids, and the flags that say so."""
    needed = IvProto.DATA_EPOCH | IvProto.DATA_V2 | IvProto.CC_EXIT_NOTIFY
    return can.proto & needed == needed


def push_options(peer: Peer, config: ServerConfig, gateway: IPv4Address) -> list[str]:
    """The options of the PUSH_REPLY for an authenticated `peer`, in the order of OpenVPN's push.c."""
    assert peer.lease is not None
    options = [
        *config.push,
        *peer.extra,
        f"route-gateway {gateway}",
        "topology subnet",
        f"ifconfig {peer.lease.ip} {peer.lease.netmask}",
        f"cipher {peer.cipher}",
    ]
    if peer.can.proto & IvProto.DATA_V2:
        options.append(f"peer-id {peer.number}")
    if peer.can.proto & IvProto.CC_EXIT_NOTIFY:
        flags = ["cc-exit", *(["tls-ekm"] if peer.ekm else []), *(["dyn-tls-crypt"] if peer.dynamic_tls_crypt else [])]
        flags += ["aead-epoch"] if peer.epoch else []
        options.append(f"protocol-flags {' '.join(flags)}")
    elif peer.ekm:
        options.append("key-derivation tls-ekm")
    if peer.can.mtu:
        options.append(f"tun-mtu {config.common.tun_mtu}")
    return options
