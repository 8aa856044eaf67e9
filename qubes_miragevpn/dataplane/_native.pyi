# SPDX-License-Identifier: BSD-2-Clause
"""The native data plane (native/binding), which is there where it could be built.

`Engine` is what moves packets; `runtime.nativepump` calls it. What contradicts an earlier call of its raises
`MisuseError`, what the system refuses `OSError`; no call waits for the network.

`Key` and the functions show its parts one packet at a time: they are there to be compared with the reference.
"""

from collections.abc import Callable, Sequence
from typing import final

from qubes_miragevpn.dataplane.interface import SockAddr

VERSION: str
"""The version of the native code."""

Way = tuple[bytes, bytes, bytes]
"""Keys of one direction: cipher key, implicit IV, HMAC key."""

class Refused(Exception):
    """A packet that is not opened or not sealed: args are its counter ("replay", "auth", "other"), and why."""

@final
class Key:
    """One key slot, both directions.

    `since`: as in `DataKeys`. `entropy(n)` gives n random bytes. Everything behind `reneg_packets` is for tests of
    limits: where the life of the key begins. Raises ValueError for keys that do not fit.
    """

    def __init__(
        self,
        key_id: int,
        suite: str,
        send: Way,
        receive: Way,
        entropy: Callable[[int], bytes],
        *,
        digest: str = "",
        epoch: bool = False,
        since: int = 0,
        peer_id: int = 0,
        replay_window: int = 64,
        replay_time: float = 0.0,
        reneg_bytes: int = 0,
        reneg_packets: int = 0,
        packets_sent: int = 0,
        failed_tags: int = 0,
        usage_limit: int | None = None,
        start_epoch: int = 0,
    ) -> None: ...
    def seal(self, payload: bytes) -> bytes:
        """Return `payload` as a packet; raises `Refused`."""

    def open(self, packet: bytes, now: float = 0.0) -> bytes:
        """Return the payload of `packet`, which came at `now`; raises `Refused`."""

    def address(self, peer_id: int) -> None:
        """Put `peer_id` into what is sent from now on."""

    def take_exhausted(self) -> bool:
        """True once: the key should be replaced."""

    def take_in_use(self) -> bool:
        """True once: the peer uses the key."""

    @property
    def spent(self) -> bool:
        """A hard limit is reached."""

    @property
    def send_epoch(self) -> int:
        """The epoch of the next packet (epoch format)."""

    @property
    def sent(self) -> tuple[int, int]:
        """Packets, bytes."""

    @property
    def received(self) -> tuple[int, int]:
        """Packets, bytes."""

def frame(kind: str, inner: bytes) -> bytes:
    """`inner`, which is not empty, in the compression framing `kind`: "none", "byte", "swapped" or "v2"."""

def unframe(kind: str, framed: bytes) -> bytes:
    """The inner packet in `framed`; raises `Refused` (whose counter may be "compressed")."""

def classify(payload: bytes) -> str | tuple[bytes, bytes]:
    """Source and destination of an IP packet; or "ping", "exit", "occ", "unknown"."""

def segment(frame: bytes) -> list[bytes]:
    """The packets that `frame` (virtio-net header, packet) is cut into; raises ValueError."""

def coalesce(packets: Sequence[bytes], *, tcp: bool = True, udp: bool = True) -> list[bytes]:
    """The frames (virtio-net header, packet) that well-formed IP packets are joined to."""

@final
class Rules:
    """`PeerLimits` without its payload rules."""

    def __init__(
        self,
        *,
        ping: float,
        silence: float,
        replay_window: int,
        replay_time: float,
        mss4: int,
        mss6: int,
        reneg_bytes: int,
        reneg_pkts: int,
        floats: bool,
        framing: str,
    ) -> None:
        """`framing`: as in `frame`."""

@final
class Slot:
    """`DataKeys` for a suite and digest that there are here; wiped from memory when it goes."""

    def __init__(self, suite: str, send: Way, receive: Way, *, digest: str, epoch: bool) -> None: ...

@final
class Engine:
    """Two threads that move packets; see `interface.DataPlane` for what the methods mean."""

    dropped_full: int
    """Data packets lost to a full socket or a network error."""

    def __init__(self, server: bool, among: bool) -> None:
        """`server`, `among`: as `server` and `client_to_client` of the reference."""

    def fileno(self) -> int:
        """Readable while there are events."""

    def close(self) -> None:
        """End the threads; every later call does nothing."""

    def events(self) -> list[tuple[object, ...]]:
        """What happened, in order: the kind of event, then what it is about."""

    def attach_tun(self, fd: int) -> str:
        """Use `fd`, which stays the caller's to close; returns what the device can do."""

    def detach_tun(self) -> None: ...
    def attach_link(self, link: int, fd: int, stream: bool, connected: bool) -> None:
        """Take over the descriptor `fd`, whatever becomes of the call."""

    def detach_link(self, link: int) -> None: ...
    def send(self, link: int, to: SockAddr, packet: bytes) -> None: ...
    def add_peer(self, peer: int, link: int, to: SockAddr, peer_id: int, rules: Rules) -> None: ...
    def update_peer(self, peer: int, peer_id: int | None = None, rules: Rules | None = None) -> None: ...
    def set_addresses(self, peer: int, addresses: list[str], networks: list[tuple[str, int]]) -> None:
        """`networks`: address and length of the prefix."""

    def remove_peer(self, peer: int) -> None: ...
    def install_key(self, peer: int, key_id: int, key: Slot) -> None: ...
    def activate_key(self, peer: int, key_id: int) -> None: ...
    def retire_key(self, peer: int, key_id: int) -> None: ...
    def send_inner(self, peer: int, payload: bytes) -> None: ...
    def counters(self, peer: int) -> list[int]:
        """In the order of `interface.Counters`."""
