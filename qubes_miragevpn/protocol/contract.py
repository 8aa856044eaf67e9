# SPDX-License-Identifier: BSD-2-Clause
"""The contract of the protocol core: every event that drives a machine, every effect it asks for.

A machine is driven by three things only: the user, the network and time. Its whole interface is

    machine.handle(event, now) -> list[Effect]
    machine.next_deadline() -> float | None

`now` is seconds of a monotonic clock. The driver hands `TimerExpired` at or after the deadline, carries
out the effects in order, and does nothing that it was not asked to do. A machine opens no socket, reads no
clock and draws no randomness of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import ANYWHERE, Family, Listen, Local, Proto, Proxy, ServerConfig, TunnelSettings
from qubes_miragevpn.dataplane.interface import (
    CompressedDropped,
    DataKeys,
    Floated,
    KeyExhausted,
    KeyInUse,
    Link,
    OccMessage,
    PeerExited,
    PeerLimits,
    PeerSilent,
    SockAddr,
)

# --- events ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NameResolved:
    """The answer to `Resolve`: addresses in the order to try them."""

    request: int
    addresses: tuple[IPv4Address | IPv6Address, ...]


@dataclass(frozen=True)
class ResolutionFailed:
    """The name of `request` has no usable address; `reason` is for the log."""

    request: int
    reason: str


@dataclass(frozen=True)
class TransportUp:
    """A client's transport is open, or a server accepted the TCP connection `link` from `endpoint`."""

    link: Link
    endpoint: SockAddr


@dataclass(frozen=True)
class TransportDown:
    """The transport `link` could not be opened, or ended. `login`: its proxy wants a login, or another one."""

    link: Link
    reason: str
    login: bool = False


@dataclass(frozen=True)
class PacketReceived:
    """A whole control packet: a datagram, or a frame of a TCP stream without its length prefix."""

    link: Link
    endpoint: SockAddr
    packet: bytes


@dataclass(frozen=True)
class TrafficCounted:
    """The answer to `CountTraffic`: bytes of inner packets that `peer` sent and was sent since it was added."""

    peer: int
    carried: int


@dataclass(frozen=True)
class TimerExpired:
    """The time of `next_deadline` has come."""


@dataclass(frozen=True)
class CredentialsGiven:
    """The answer to `AskCredentials`."""

    username: str
    password: Secret


@dataclass(frozen=True)
class CredentialsRefused:
    """Nobody can or will answer `AskCredentials`."""

    reason: str


@dataclass(frozen=True)
class ChallengeAnswered:
    """The answer to `AskChallenge` number `request`."""

    request: int
    answer: Secret


@dataclass(frozen=True)
class ChallengeRefused:
    """Nobody can or will answer `AskChallenge` number `request`."""

    request: int
    reason: str


@dataclass(frozen=True)
class LoginJudged:
    """The verdict on a `VerifyLogin`; a refused client is `told` so much ("" only that), `why` is for the log."""

    peer: int
    attempt: int
    granted: bool
    told: str = ""
    why: str = ""


@dataclass(frozen=True)
class LoginPending:
    """The verdict on a `VerifyLogin` takes so many seconds more; the client is sent `messages` (INFO_PRE,...)."""

    peer: int
    attempt: int
    seconds: float
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClientKeyJudged:
    """The verdict on a `VerifyClientKey`; `why` is for the log."""

    peer: int
    granted: bool
    why: str = ""


class Command(Enum):
    """What the user may ask of a machine."""

    CONNECT = "connect"
    DISCONNECT = "disconnect"
    RECONNECT = "reconnect"  # begin again at once with the same remote
    RENEGOTIATE = "renegotiate"


@dataclass(frozen=True)
class UserCommand:
    """The user's wish."""

    command: Command


@dataclass(frozen=True)
class DismissPeer:
    """The operator sends a server's peer away with this control message (RESTART or HALT, with their flags)."""

    peer: int
    message: str


@dataclass(frozen=True)
class Reconfigured:
    """The operator changed a server's configuration; it counts for clients that come from now on."""

    config: ServerConfig


@dataclass(frozen=True)
class ChangeSettings:
    """The operator changes what a server's peer was pushed: the options of a PUSH_UPDATE, without continuation."""

    peer: int
    options: tuple[str, ...]


Event = (
    NameResolved
    | ResolutionFailed
    | TransportUp
    | TransportDown
    | PacketReceived
    | TimerExpired
    | TrafficCounted
    | KeyExhausted
    | KeyInUse
    | PeerSilent
    | PeerExited
    | OccMessage
    | CompressedDropped
    | Floated
    | CredentialsGiven
    | CredentialsRefused
    | ChallengeAnswered
    | ChallengeRefused
    | LoginJudged
    | LoginPending
    | ClientKeyJudged
    | UserCommand
    | DismissPeer
    | Reconfigured
    | ChangeSettings
)

# --- effects --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resolve:
    """Look `host` up; answer with `NameResolved` or `ResolutionFailed` for `request`."""

    request: int
    host: str
    family: Family


@dataclass(frozen=True)
class OpenTransport:
    """Open a transport and call it `link`; answer with `TransportUp` or `TransportDown`.

    With a `proxy`, that is what `address` and `port` are, and `target` is the server to ask it for: host, port, and the
    family of its addresses. `local` is where the socket is bound. `floats`: packets from any address are taken in, of a
    UDP socket without a proxy; whoever is handed them says which count.
    """

    link: Link
    proto: Proto
    address: IPv4Address | IPv6Address
    port: int
    local: Local = ANYWHERE
    proxy: Proxy | None = None
    target: tuple[str, int, Family] | None = None
    floats: bool = False


@dataclass(frozen=True)
class AwaitTransport:
    """Wait at `listen` for the other end, and call its transport `link`; answer as to `OpenTransport`.

    On TCP that is the first connection from one of the addresses `only` (() any). On UDP it is a socket that takes
    packets from everywhere, at once, and `TransportUp` names `NOWHERE`.
    """

    link: Link
    listen: Listen
    only: tuple[IPv4Address | IPv6Address, ...] = ()


NOWHERE: SockAddr = ("0.0.0.0", 0)
"""The endpoint of a peer that was not heard yet: nothing can be sent there."""


@dataclass(frozen=True)
class CloseTransport:
    """Close `link`; no event follows."""

    link: Link


@dataclass(frozen=True)
class Transmit:
    """Send a control packet."""

    link: Link
    endpoint: SockAddr
    packet: bytes


@dataclass(frozen=True)
class AddPeer:
    """Tell the data plane about a peer (see `DataPlane.add_peer`)."""

    peer: int
    link: Link
    endpoint: SockAddr
    peer_id: int
    limits: PeerLimits


@dataclass(frozen=True)
class AssignAddresses:
    """Inner addresses of a server's peer, and what else an operator wants to know of it; told again when it moves.

    `networks` are behind it. `name` is its common name, `username` what it logged in with, both made printable;
    `endpoint` is where it is.
    """

    peer: int
    name: str
    addresses: tuple[IPv4Address | IPv6Address, ...]
    username: str = ""
    cipher: str = ""
    endpoint: SockAddr | None = None
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    updatable: bool = False  # what it was pushed may be changed by `ChangeSettings`


@dataclass(frozen=True)
class VerifyLogin:
    """May this client of a server enter? To be answered by `LoginJudged` for this `attempt`.

    `common_name` is its certificate's ("" without one), `facts` the lines of its peer info; all but the password is
    what the client says, and not made printable.
    """

    peer: int
    attempt: int
    username: str
    password: Secret
    common_name: str
    endpoint: SockAddr
    facts: tuple[str, ...]


@dataclass(frozen=True)
class LoginAnswered:
    """What a client answered to a question in `LoginPending` (the content of CR_RESPONSE, base64)."""

    peer: int
    attempt: int
    answer: Secret


@dataclass(frozen=True)
class ForgetLogin:
    """The verdict on this attempt is not wanted any more: the client left, or it took too long."""

    peer: int
    attempt: int


@dataclass(frozen=True)
class VerifyClientKey:
    """May somebody with this tls-crypt-v2 key speak to a server? To be answered by `ClientKeyJudged`.

    `kind` and `metadata` are what whoever issued the key wrote into it; `endpoint` is proved to be the client's.
    """

    peer: int
    endpoint: SockAddr
    kind: int
    metadata: bytes


@dataclass(frozen=True)
class ForgetClientKey:
    """The verdict on this peer's key is not wanted any more."""

    peer: int


@dataclass(frozen=True)
class RemovePeer:
    """Forget a peer and its keys."""

    peer: int


@dataclass(frozen=True)
class InstallKey:
    """Receive under `key_id` from now on."""

    peer: int
    key_id: int
    keys: DataKeys


@dataclass(frozen=True)
class ActivateKey:
    """Send under `key_id` from now on."""

    peer: int
    key_id: int


@dataclass(frozen=True)
class RetireKey:
    """Forget `key_id`."""

    peer: int
    key_id: int


@dataclass(frozen=True)
class SendInner:
    """Send `payload` to `peer` on the data channel (explicit exit of old peers)."""

    peer: int
    payload: bytes


@dataclass(frozen=True)
class CountTraffic:
    """Say how much `peer` has carried so far; answer with `TrafficCounted`."""

    peer: int


@dataclass(frozen=True)
class TunnelUp:
    """The client's tunnel works with these settings; `summary` says how, for the log."""

    settings: TunnelSettings
    summary: str


@dataclass(frozen=True)
class TunnelChanged:
    """The working tunnel has other settings now (after a restart that pulled something else)."""

    settings: TunnelSettings


@dataclass(frozen=True)
class TunnelDown:
    """The tunnel does not work any more; the machine goes on trying unless `Stop` follows."""

    reason: str


@dataclass(frozen=True)
class AskCredentials:
    """User name and password are needed; `again` tells why the last ones were not good (or "").

    `proxy`: for what, printable, where that is a proxy on the way and not the server.
    """

    again: str
    proxy: str = ""


@dataclass(frozen=True)
class AskChallenge:
    """The user must be asked `text` (printable); answer with `ChallengeAnswered` or `ChallengeRefused` for `request`.

    `echo`: the answer may be seen while it is typed. `wanted` False: nothing is asked, the user only confirms.
    A later question, or the end of the connection that asked, takes this one back.
    """

    request: int
    text: str
    echo: bool
    wanted: bool


@dataclass(frozen=True)
class OpenUrl:
    """The server asks the user to open `url` (http or https, printable) in a browser; show it, never open it."""

    url: str


class Level(Enum):
    """How loud a `Notify` is."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Notify:
    """A line for the log, printable. `client`: which of a server's clients it is about (`serving.peer.tag`)."""

    level: Level
    text: str
    client: str = ""


@dataclass(frozen=True)
class Drop:
    """A packet was dropped; `reason` is for the debug log (rate limited by the driver). `client`: as in `Notify`."""

    reason: str
    client: str = ""


class StopKind(Enum):
    """Why a machine ended for good."""

    ASKED = "asked"
    AUTH = "authentication"  # refused by the peer, or the peer refused by us
    CONNECTION = "connection"  # no remote left to try, or the server said HALT
    CREDENTIALS = "credentials"  # needed and not to be had
    SYSTEM = "system"  # this machine denies what is needed; said by the driver, never by a protocol machine


@dataclass(frozen=True)
class Stop:
    """The machine has ended; it takes no further event."""

    kind: StopKind
    reason: str


Effect = (
    Resolve
    | OpenTransport
    | AwaitTransport
    | CloseTransport
    | Transmit
    | AddPeer
    | AssignAddresses
    | VerifyLogin
    | LoginAnswered
    | ForgetLogin
    | VerifyClientKey
    | ForgetClientKey
    | RemovePeer
    | InstallKey
    | ActivateKey
    | RetireKey
    | SendInner
    | CountTraffic
    | TunnelUp
    | TunnelChanged
    | TunnelDown
    | AskCredentials
    | AskChallenge
    | OpenUrl
    | Notify
    | Drop
    | Stop
)
