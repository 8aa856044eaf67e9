# SPDX-License-Identifier: BSD-2-Clause
"""The native data plane (native/binding), which is there where it could be built.

`Key`, `segment` and `coalesce` show its parts one packet at a time: they are there to be compared with the reference.
"""

from collections.abc import Callable, Sequence
from typing import final

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
        reneg_bytes: int = 0,
        reneg_packets: int = 0,
        packets_sent: int = 0,
        failed_tags: int = 0,
        usage_limit: int | None = None,
        start_epoch: int = 0,
    ) -> None: ...
    def seal(self, payload: bytes) -> bytes:
        """Return `payload` as a packet; raises `Refused`."""

    def open(self, packet: bytes) -> bytes:
        """Return the payload of `packet`; raises `Refused`."""

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

def segment(frame: bytes) -> list[bytes]:
    """The packets that `frame` (virtio-net header, packet) is cut into; raises ValueError."""

def coalesce(packets: Sequence[bytes], *, tcp: bool = True, udp: bool = True) -> list[bytes]:
    """The frames (virtio-net header, packet) that well-formed IP packets are joined to."""
