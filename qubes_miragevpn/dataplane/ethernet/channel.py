# SPDX-License-Identifier: BSD-2-Clause
"""The data channel of a server of many with a TAP: frames go by the table of a switch, not by inner addresses.

As OpenVPN's multi.c: a frame of a client's goes to the TAP, and with ``client-to-client`` to the client that has its
destination instead; what is for a group goes to both. A frame of the TAP's for somebody unknown is dropped, never
flooded. Whether frames go between clients by the TAP (a bridge that gives them back) is that bridge's to say.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.dataplane.ethernet.switch import Switch, is_group
from qubes_miragevpn.dataplane.peers import Peer
from qubes_miragevpn.dataplane.reference import DataChannel, Outgoing


class SwitchedChannel(DataChannel):
    """See `DataChannel`; its peers' limits say `ethernet`."""

    def __init__(
        self, switch: Switch, *, client_to_client: bool = False, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        super().__init__(server=True, client_to_client=client_to_client, entropy=entropy)
        self._switch = switch

    def send(self, inner: bytes, now: float) -> Outgoing | None:
        """Seal a frame of the TAP for the peer that has its destination; one for a group, for all of them."""
        try:
            destination = self._switch.from_tap(inner, now)
        except PeerError:
            self.dropped_unknown += 1
            return None
        if is_group(destination):
            self._send_copies(inner, None, now)
            return None
        peer = self._peers.by_handle.get(self._switch.holder(destination))
        if peer is None:
            self.dropped_unknown += 1
            return None
        return self._send_to(peer, inner, now)

    def _send_copies(self, frame: bytes, sender: Peer | None, now: float) -> None:
        """Put `frame` into the outbox for every peer but its sender."""
        for peer in self._peers.by_handle.values():
            if peer is not sender and peer.sending is not None:
                copy = self._send_to(peer, frame, now)
                self.outbox += [] if copy is None else [copy]

    def _take_frame(self, peer: Peer, frame: bytes, now: float) -> bytes | None:
        """Learn who sent a frame; pass it on, and return it if the TAP is to have it."""
        try:
            destination = self._switch.from_client(peer.handle, frame, now)
        except PeerError:
            peer.dropped_other += 1
            return None
        clamped = super()._take_frame(peer, frame, now)
        if clamped is None or not self._client_to_client:
            return clamped
        if is_group(destination):
            if self._switch.may_copy(peer.handle, len(self._peers.by_handle), now):
                self._send_copies(clamped, peer, now)
            else:
                peer.dropped_other += 1
            return clamped
        other = self._peers.by_handle.get(self._switch.holder(destination))
        if other is None:
            return clamped
        if other is not peer and (passed_on := self._send_to(other, clamped, now)) is not None:
            self.outbox.append(passed_on)
        return None

    def remove_peer(self, handle: int) -> None:
        """Forget a peer, its keys, and what was behind it."""
        super().remove_peer(handle)
        self._switch.leave(handle)
