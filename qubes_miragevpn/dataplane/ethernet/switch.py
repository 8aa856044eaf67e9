# SPDX-License-Identifier: BSD-2-Clause
"""Who has which Ethernet address on a server of many (``dev tap``): a switch whose ports are clients, and one the TAP.

Addresses are learned from the source of frames, as every bridge does (IEEE 802.1D), but nobody is robbed: what another
client has used within `AGE` seconds, or the server's side within `OWN_AGE`, is refused with the frame that claims it,
and the TAP's own address always. So nobody draws another's traffic to himself, and a loop through two clients breaks
where its frames come back. The server's side takes an address that its client has not used for a moment (`SETTLED`).

Bounded for each client (``max-routes-per-client``, as openvpn), and in all. Refused are frames that are too short or
too long, whose source is a group or nothing, and those to the addresses that no bridge passes on (802.1D, table 7-10:
spanning tree, pause, LLDP). VLAN tags are not looked at. Sources: OpenVPN multi.c, mroute.c; its manual, "--dev tap".
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from qubes_miragevpn.base.errors import MisuseError, PeerError
from qubes_miragevpn.dataplane.ethernet.frame import is_frame

AGE = 300.0  # seconds without a frame from there after which another may have an address (as Linux' bridge)
OWN_AGE = 3600.0  # the same for what is at the server's side, which speaks to clients seldom
SETTLED = 5.0  # a frame of a client's that a hairpin gives back comes at once
FEW = 16  # addresses that each client may have, however many the others have
MOST = 1 << 16  # addresses of all clients beyond those: about 250 bytes each, so 16 MB at the very most
MOST_OF_OURS = 1 << 14  # addresses at the server's side; the oldest is forgotten for a new one
COPIES = 4000.0  # copies of frames for everybody that one client may cause in a second

TAP = -1
"""The holder of what is at the server's side."""

_NOBODY = bytes(6)
_NEVER_PASSED_ON = bytes.fromhex("0180c20000")  # and a last byte of 00 to 0f


@dataclass(frozen=True)
class SwitchRules:
    """How many `addresses` one client may have, and the bytes of the `largest` frame."""

    addresses: int = 256
    largest: int = 1532


def is_group(address: bytes) -> bool:
    """Whether an address is that of several: broadcast, multicast."""
    return bool(address[0] & 1)


class Switch:
    """The table, and what is decided by it. Holders are the data plane's handles of clients, or `TAP`."""

    def __init__(self, rules: SwitchRules) -> None:
        self.rules = rules
        self._own = b""
        self._holder: dict[bytes, int] = {}
        self._seen: dict[int, OrderedDict[bytes, float]] = {}  # of each holder: when last, the longest ago first
        self._copies: dict[int, tuple[float, float]] = {}  # of each client: how many are left, since when

    def __len__(self) -> int:
        return len(self._holder)

    def own(self, address: bytes) -> None:
        """The TAP's own address, which is nobody else's."""
        if len(address) != len(_NOBODY):
            raise MisuseError("an Ethernet address has six bytes")
        holder = self._holder.get(address)
        if holder is not None:
            self._forget(holder, address)
        self._own = address

    def holder(self, address: bytes) -> int:
        """Who has this address; whoever is not known is taken to be at the server's side."""
        return TAP if address == self._own else self._holder.get(address, TAP)

    def from_client(self, handle: int, frame: bytes, now: float) -> bytes:
        """Learn from a frame of a client's; return where it goes. Raises `PeerError` (drop) unless it may pass."""
        destination = self._destination(frame)
        source = frame[6:12]
        if is_group(source) or source in (_NOBODY, self._own):
            raise PeerError("no client can have such an Ethernet address")
        holder = self._holder.get(source)
        if holder != handle:
            if holder is not None:
                if now < self._seen[holder][source] + (OWN_AGE if holder == TAP else AGE):
                    raise PeerError("the Ethernet address is somebody else's")
                self._forget(holder, source)
            self._make_room(handle, now)
            self._holder[source] = handle
        self._note(handle, source, now)
        return destination

    def from_tap(self, frame: bytes, now: float) -> bytes:
        """Learn from a frame of the server's side; return where it goes. Raises `PeerError` unless it may pass."""
        destination = self._destination(frame)
        source = frame[6:12]
        if is_group(source) or source in (_NOBODY, self._own):
            return destination
        holder = self._holder.get(source)
        if holder is not None and holder != TAP:
            if now < self._seen[holder][source] + SETTLED:
                return destination
            self._forget(holder, source)
        if holder != TAP and len(ours := self._seen.get(TAP, ())) >= MOST_OF_OURS:
            self._forget(TAP, next(iter(ours)))
        self._holder[source] = TAP
        self._note(TAP, source, now)
        return destination

    def may_copy(self, handle: int, copies: int, now: float) -> bool:
        """Whether a client may cause so many copies of a frame now: a flood for everybody costs everybody."""
        left, since = self._copies.get(handle, (COPIES, now))
        left = min(COPIES, left + (now - since) * COPIES)
        if left <= 0:
            return False
        self._copies[handle] = (left - copies, now)  # at times a debt: where there are many clients
        return True

    def leave(self, handle: int) -> None:
        """A client has gone, with all that was behind it."""
        for address in self._seen.pop(handle, ()):
            del self._holder[address]
        self._copies.pop(handle, None)

    def _destination(self, frame: bytes) -> bytes:
        if not is_frame(frame) or len(frame) > self.rules.largest:
            raise PeerError("too short or too long a frame")
        if frame.startswith(_NEVER_PASSED_ON) and frame[5] < 16:
            raise PeerError("no bridge passes frames to this address on")
        return frame[:6]

    def _note(self, holder: int, address: bytes, now: float) -> None:
        seen = self._seen.setdefault(holder, OrderedDict())
        seen[address] = now
        seen.move_to_end(address)

    def _forget(self, holder: int, address: bytes) -> None:
        del self._holder[address]
        del self._seen[holder][address]

    def _make_room(self, handle: int, now: float) -> None:
        """One more address for a client: in the place of its oldest one if that has aged, if there is no other."""
        seen = self._seen.get(handle, OrderedDict())
        most = len(self._holder) - len(self._seen.get(TAP, ())) >= MOST + FEW * len(self._seen)
        if len(seen) < self.rules.addresses and (len(seen) < FEW or not most):
            return
        oldest = next(iter(seen))
        if now < seen[oldest] + AGE:
            raise PeerError("the client has too many Ethernet addresses")
        self._forget(handle, oldest)
