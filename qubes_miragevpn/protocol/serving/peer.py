# SPDX-License-Identifier: BSD-2-Clause
"""A server's association with one client, and what is pushed to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import OneClient, Proto, ServerConfig
from qubes_miragevpn.crypto.token import Token
from qubes_miragevpn.dataplane.interface import Link, SockAddr
from qubes_miragevpn.protocol.inquiry import Inquiries
from qubes_miragevpn.protocol.ration import Pace, Ration
from qubes_miragevpn.protocol.serving.pool import AddressPool, AddressPool6
from qubes_miragevpn.protocol.session import Session
from qubes_miragevpn.protocol.wire.peerinfo import IvProto, PeerCan
from qubes_miragevpn.protocol.wrap.keys import Opened

EXIT_DELAY = 1.0
"""Seconds between a farewell, ours or the client's, and our forgetting it, so that the last packets get through."""

MAX_NAME = 255
"""Bytes of a client's name: so long may a file's name be, and so much is remembered of each."""

MOVES_TOLD = Pace(6, 60.0)
"""Lines of the log about a client's moves: it may move with every packet."""

USER = "user:"
"""Before the name of somebody without a certificate where others have one."""

MAX_SHOWN = 64
"""Characters of a name that are for people to read."""

_NOTHING_SAID = OneClient()
_CAN_NOTHING = PeerCan(proto=0, ciphers=(), mtu=False)


@dataclass
class Trial:
    """A tls-crypt-v2 key whose metadata somebody judges before TLS sees anything of its bearer; see `vetting`."""

    kind: int
    metadata: bytes
    asked: bool = False
    held: list[Opened] = field(default_factory=list)  # packets that came meanwhile


@dataclass
class Peer:
    """One association: a candidate, then `admitted` (authenticated), then `served` (it has keys and a place)."""

    number: int
    link: Link
    endpoint: SockAddr
    session: Session
    began: float
    proto: Proto
    trial: Trial | None = None  # its key is not judged yet
    name: str = ""  # for people: printable, and cut where it is very long
    identity: str = ""  # the same whole, by which clients are told apart
    username: str = ""
    certified: str = ""  # the common name of its certificate
    attempt: int = 0  # under which number the newest verdict on its login was asked for
    judged_until: float | None = None  # such a verdict is awaited, so long
    refusal: tuple[str, str] | None = None  # why it may not enter, and what it is told; not said yet
    refused: bool = False
    token: Token | None = None  # by which it may come back without its password
    extra: tuple[str, ...] = ()  # options that it is pushed besides
    asked: bool = False  # it wants to be served
    can: PeerCan = _CAN_NOTHING
    options: str = ""  # its options string, untrusted
    inquiries: Inquiries | None = None  # about settings and sizes, once it is served
    cipher: str = ""
    ekm: bool = False
    epoch: bool = False  # data packets have the epoch format
    dynamic_tls_crypt: bool = False
    admitted: bool = False
    single: OneClient = _NOTHING_SAID  # what its own file says
    lease: IPv4Interface | None = None
    lease6: IPv6Interface | None = None
    key_id: int = 0  # the newest established key
    served: bool = False
    leaves_at: float = float("inf")
    installed: set[int] = field(default_factory=set)
    moves_told: Ration = field(default_factory=lambda: Ration(MOVES_TOLD))

    @property
    def tag(self) -> str:
        """By which it is known in the log."""
        return tag(self.endpoint, self.name)

    @property
    def updatable(self) -> bool:
        """Whether it takes changes of what it was pushed."""
        return bool(self.can.proto & IvProto.PUSH_UPDATE)

    @property
    def on_trial(self) -> bool:
        """Whether a verdict on its key is awaited: its session stands still."""
        return self.trial is not None and self.trial.asked

    @property
    def judged(self) -> bool:
        """Whether a verdict on its login is awaited."""
        return self.judged_until is not None


def apart(name: str, *, certified: bool) -> str:
    """What somebody is called where some have a certificate and some do not: a user is never a certificate's bearer.

    Raises `PeerError` (end of session) for a certificate with a name that looks like a user's.
    """
    if not certified:
        return USER + name
    if name.startswith(USER):
        raise PeerError(f"a certificate's name may not begin with {USER!r}", Consequence.END_SESSION)
    return name


def place_of(endpoint: SockAddr | None) -> str:
    """Where somebody is, as one word; "" if that is not said."""
    if endpoint is None:
        return ""
    address = printable(str(endpoint[0]))
    return f"[{address}]:{endpoint[1]}" if ":" in address else f"{address}:{endpoint[1]}"


def tag(endpoint: SockAddr | None, name: str = "") -> str:
    """Whom a line of the log is about: ``NAME/ADDRESS:PORT``, one word whatever somebody calls himself.

    As openvpn has it (multi.c, multi_instance_string): without a name before somebody gave one.
    """
    shown = "".join("_" if char in "/ " else char for char in printable(name, MAX_SHOWN))
    return f"{shown}/{place_of(endpoint)}" if shown else place_of(endpoint)


def can_epochs(can: PeerCan) -> bool:
    """Whether a client may be told to use the epoch format: it knows that, peer ids, and the flags that say so."""
    needed = IvProto.DATA_EPOCH | IvProto.DATA_V2 | IvProto.CC_EXIT_NOTIFY
    return can.proto & needed == needed


def _way_inside(config: ServerConfig, server: IPv4Address | None) -> list[str]:
    """Without a network on the link, what is inside must be routed: the server alone, or its other clients as well."""
    if config.bridge is not None and config.bridge.gateway is None:
        return ["route-gateway dhcp"] if config.bridge.dhcp_gateway else []
    if config.network is None or server is None:
        return []
    if config.topology == "subnet":
        return [f"route-gateway {server}"]
    if config.client_to_client:
        return [f"route {config.network.network_address} {config.network.netmask}"]
    return [f"route {server}"]


def _inside(peer: Peer, pool: AddressPool) -> list[str]:
    if peer.lease is None:
        return []
    own = pool.ifconfig(peer.lease) if peer.single.ifconfig is None else "{} {}".format(*peer.single.ifconfig)
    return [f"ifconfig {own}"]


def _inside6(peer: Peer, pool6: AddressPool6) -> list[str]:
    if peer.lease6 is None:
        return []
    far = peer.single.ifconfig6[1] if peer.single.ifconfig6 is not None else None
    return [f"ifconfig-ipv6 {peer.lease6} {far or pool6.server}"]


def push_options(peer: Peer, config: ServerConfig, pool: AddressPool, pool6: AddressPool6) -> list[str]:
    """The options of the PUSH_REPLY for an authenticated `peer`, in the order of OpenVPN's push.c."""
    inside6 = _inside6(peer, pool6)
    options = [
        *peer.single.pushed([
            *(["tun-ipv6"] if inside6 else []),
            *config.push,
            *_way_inside(config, pool.server),
            *([] if config.common.ethernet or config.network is None else [f"topology {config.topology}"]),
            *inside6,
            *_inside(peer, pool),
        ]),
        *peer.extra,
        f"cipher {peer.cipher}",
    ]  # fmt: skip
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
