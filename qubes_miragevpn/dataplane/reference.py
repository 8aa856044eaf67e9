# SPDX-License-Identifier: BSD-2-Clause
"""The data channel, written to be read: the specification that any faster backend is compared with.

Sans-IO. Three things drive it: packets from a link (`receive`), packets from the TUN (`send`), and time (`tick` at
`next_deadline`); `now` is an argument everywhere. What it decides is returned, or collected in `events` (for the owner)
and `outbox` (for the wire), which the caller empties.

How a packet looks is what `formats` is about, a module for each format; a key is made as one of them. Where a peer's
rules ask for it, `payload` lies between: compression framing, fragments.

The plaintext is one IP packet, the keep-alive "ping", or an OCC message, told apart by their first bytes.

It refuses, drops and counts: packets of unknown peers, unknown keys, from an address other than the peer's (unless its
limits let it float), replays, failed tags, empty plaintexts, malformed IP, and on a server a source that is not the
peer's own.
Nothing that comes from outside raises; `MisuseError` is for the caller's mistakes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from qubes_miragevpn.base.deadlines import Deadlines
from qubes_miragevpn.base.errors import MisuseError, PeerError
from qubes_miragevpn.crypto.replay import Replayed
from qubes_miragevpn.dataplane import ip
from qubes_miragevpn.dataplane.ethernet.frame import clamp_frame, is_frame
from qubes_miragevpn.dataplane.formats.choose import make_key
from qubes_miragevpn.dataplane.inband import OCC_EXIT, OCC_MAGIC, OCC_MOST, PING
from qubes_miragevpn.dataplane.interface import (
    CompressedDropped,
    Counters,
    DataKeys,
    Floated,
    KeyExhausted,
    KeyInUse,
    Link,
    OccMessage,
    PeerExited,
    PeerLimits,
    PeerSilent,
    PlaneEvent,
    SockAddr,
)
from qubes_miragevpn.dataplane.keys import (
    DATA_V1,
    DATA_V2,
    RENEW_FAILED_TAGS,
    V1_HEADER,
    V2_HEADER,
    KeySlot,
    Unreadable,
)
from qubes_miragevpn.dataplane.mss import clamp
from qubes_miragevpn.dataplane.payload.compression import Compressed
from qubes_miragevpn.dataplane.payload.pipeline import Pipeline, make_pipeline
from qubes_miragevpn.dataplane.peers import Peer, Peers, checked_peer_id

MAX_KEYS = 3  # the active one, the next one, and the lame duck

DATA_OPCODES = frozenset((DATA_V1, DATA_V2))
"""What `DataChannel.receive` takes; packets with any other opcode are the control channel's."""

Outgoing = tuple[Link, SockAddr, bytes]
"""A packet for the wire: where it goes, and what it is."""


class DataChannel:
    """All peers of one data plane.

    `server`: a peer sends and receives nothing until it has addresses; otherwise one without takes everything.
    `client_to_client`: packets of a peer for another peer are passed on; otherwise they are dropped.
    `entropy(n)` gives n random bytes (the IVs of CBC).
    """

    def __init__(
        self, *, server: bool = False, client_to_client: bool = False, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        self.events: list[PlaneEvent] = []
        self.outbox: list[Outgoing] = []
        self.dropped_unknown = 0  # packets that belong to no peer
        self._client_to_client = client_to_client
        self._entropy = entropy
        self._peers = Peers(server)
        self._deadlines = Deadlines()  # when a peer is looked at next: never too late, and too early after traffic

    # --- packets ----------------------------------------------------------------------------------------

    def send(self, inner: bytes, now: float) -> Outgoing | None:
        """Seal `inner`, an IP packet from the TUN, for the peer it is for; None if it cannot be sent.

        What goes out besides is in the outbox, and goes ahead of what is returned.
        """
        peer = self._peers.everything
        if peer is None:
            try:
                peer = self._peers.find(ip.addresses(inner)[1])
            except PeerError:
                peer = None
            if peer is None:
                self.dropped_unknown += 1
                return None
        return self._send_to(peer, inner, now)

    def _send_to(self, peer: Peer, inner: bytes, now: float) -> Outgoing | None:
        """Seal the IP packet `inner` for `peer`, its MSS clamped, and count it."""
        key = peer.sending
        if key is None or not inner:
            peer.dropped_other += 1
            return None
        limits = peer.limits
        peer.packets_out += 1
        peer.bytes_out += len(inner)
        inner = (clamp_frame if limits.ethernet else clamp)(inner, limits.mss4, limits.mss6)
        if peer.pipeline is not None:
            return self._send_parts(peer, key, peer.pipeline.outgoing(inner), now)
        packet = key.seal(inner)
        peer.sent = now
        if key.packets_sent >= key.check_sent_at:
            self._look(peer, key)
        return peer.link, peer.endpoint, packet

    def _send_parts(self, peer: Peer, key: KeySlot, parts: list[bytes], now: float) -> Outgoing | None:
        """Seal `parts`: all but the last go to the outbox, ahead of the one that is returned."""
        if not parts:
            peer.dropped_other += 1
            return None
        packets = [(peer.link, peer.endpoint, key.seal(part)) for part in parts]
        self.outbox += packets[:-1]
        peer.sent = now
        if key.packets_sent >= key.check_sent_at:
            self._look(peer, key)
        return packets[-1]

    def _send_message(self, peer: Peer, payload: bytes, now: float) -> None:
        """Put `payload`, which is not IP, sealed into the outbox; nothing happens without a key."""
        key = peer.sending
        if key is None or not payload:
            return
        parts = [payload] if peer.pipeline is None else peer.pipeline.outgoing(payload)
        last = self._send_parts(peer, key, parts, now)
        if last is not None:
            self.outbox.append(last)

    def receive(self, link: Link, endpoint: SockAddr | None, packet: bytes, now: float) -> bytes | None:
        """Take a DATA_V1 or DATA_V2 packet (or a bare one) from the wire; return the IP packet in it, for the TUN.

        `endpoint` None: the link is connected, so that the kernel vouches for the sender.
        """
        peer = self._peers.sole.get(link)
        key_id = packet[0] & 7
        if peer is not None and peer.limits.bare:
            body_at = key_id = 0
        elif packet[0] >> 3 == DATA_V2:
            body_at = V2_HEADER
            if peer is None:
                peer = self._peers.by_handle.get(int.from_bytes(packet[1:4], "big"))
        else:
            body_at = V1_HEADER
            if peer is None and endpoint is not None:
                peer = self._peers.by_endpoint.get((link, endpoint))
        moved = peer is not None and endpoint is not None and endpoint != peer.endpoint
        if peer is None or peer.link != link or (moved and not self._may_float(peer, body_at, endpoint)):
            self.dropped_unknown += 1
            return None
        key = peer.keys.get(key_id)
        if key is None or key.spent:
            peer.dropped_other += 1
            return None
        if now >= key.age_at:
            key.age(now)
        try:
            plaintext = key.open(packet, body_at)
        except PeerError as error:
            self._refused(peer, key, error)
            return None
        peer.heard = now
        if moved and endpoint is not None:
            self._peers.move(peer, endpoint)
            self.events.append(Floated(peer.handle, endpoint))
        if key.packets_received >= key.check_received_at:
            self._look(peer, key)
        if not key.in_use:
            key.in_use = True
            self.events.append(KeyInUse(peer.handle, key.key_id))
        if peer.pipeline is not None:
            whole = self._unwrapped(peer, peer.pipeline, plaintext, now)
            return None if whole is None else self._deliver(peer, whole, len(packet), now)
        return self._deliver(peer, plaintext, len(packet), now)

    def _unwrapped(self, peer: Peer, pipeline: Pipeline, plaintext: bytes, now: float) -> bytes | None:
        """The inner packet out of framing and fragments; None if there is none yet, or (counted) none at all."""
        try:
            return pipeline.incoming(plaintext, now)
        except Compressed as error:
            peer.dropped_compressed += 1
            if not peer.compression_told:
                peer.compression_told = True
                self.events.append(CompressedDropped(peer.handle, error.reason))
        except PeerError:
            peer.dropped_other += 1
        return None

    def _may_float(self, peer: Peer, body_at: int, endpoint: SockAddr | None) -> bool:
        """Whether an authentic packet from `endpoint` would move `peer` there: never to where another peer is."""
        if not peer.limits.floats or endpoint is None or not endpoint[1]:
            return False
        if body_at != V2_HEADER and self._peers.sole.get(peer.link) is not peer:
            return False
        return (peer.link, endpoint) not in self._peers.by_endpoint

    def _refused(self, peer: Peer, key: KeySlot, error: PeerError) -> None:
        """Count a packet that its key did not open; too many forgeries wear the key out."""
        if isinstance(error, Replayed):
            peer.dropped_replay += 1
        elif isinstance(error, Unreadable):
            peer.dropped_other += 1
        else:
            peer.dropped_auth += 1
            key.failed_tags += 1
            if key.failed_tags > RENEW_FAILED_TAGS:
                self._look(peer, key)

    def _look(self, peer: Peer, key: KeySlot) -> None:
        """Compare the use of `key` with its limits: report once that it should be replaced, stop using it at last."""
        if key.look() and not key.exhaustion_reported:
            key.exhaustion_reported = True
            self.events.append(KeyExhausted(peer.handle, key.key_id))
        if key.spent and peer.sending is key:
            peer.sending = None

    def _deliver(self, peer: Peer, plaintext: bytes, size: int, now: float) -> bytes | None:
        """Tell what the `plaintext` of an authentic packet of `size` bytes is; return it if the TUN may have it."""
        if peer.limits.ethernet:
            return self._deliver_frame(peer, plaintext, size, now)
        try:
            source, destination = ip.addresses(plaintext)
        except PeerError:
            self._message(peer, plaintext, size)
            return None
        other = None
        if peer.restricted:
            other = self._peers.find(destination)
            if self._peers.find(source) is not peer or (other is not None and not self._client_to_client):
                peer.dropped_other += 1
                return None
        peer.packets_in += 1
        peer.bytes_in += len(plaintext)
        limits = peer.limits
        inner = clamp(plaintext, limits.mss4, limits.mss6)
        if other is None:
            return inner
        passed_on = self._send_to(other, inner, now)
        if passed_on is not None:
            self.outbox.append(passed_on)
        return None

    def _deliver_frame(self, peer: Peer, plaintext: bytes, size: int, now: float) -> bytes | None:
        """The same for Ethernet frames, which only messages of our own kind are told from."""
        if plaintext == PING or plaintext.startswith(OCC_MAGIC) or not is_frame(plaintext):
            self._message(peer, plaintext, size)
            return None
        return self._take_frame(peer, plaintext, now)

    def _take_frame(self, peer: Peer, frame: bytes, now: float) -> bytes | None:
        """Count a frame; return it, its MSS clamped, for the TAP."""
        peer.packets_in += 1
        peer.bytes_in += len(frame)
        return clamp_frame(frame, peer.limits.mss4, peer.limits.mss6)

    def _message(self, peer: Peer, plaintext: bytes, size: int) -> None:
        """Take what is not IP: a ping has done its work by being authentic; OCC messages are for the owner."""
        if plaintext == PING:
            return
        if not plaintext.startswith(OCC_MAGIC):
            peer.dropped_other += 1
        elif not plaintext.startswith(OCC_EXIT):
            message = plaintext[len(OCC_MAGIC) : len(OCC_MAGIC) + OCC_MOST]
            self.events.append(OccMessage(peer.handle, message, size))
        elif not peer.exited:
            peer.exited = True  # repeated farewells are one event
            self.events.append(PeerExited(peer.handle))

    # --- time -------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call `tick`; traffic only ever moves this later, so it need not be asked after every packet."""
        while (first := self._deadlines.first()) is not None:
            noted, handle = first
            due = _due(self._peers.by_handle[handle])
            if due == noted:
                return noted
            self._deadlines.set(handle, due)
        return None

    def tick(self, now: float) -> None:
        """Send the pings that are due, report the peers that are silent (again every `silence` seconds)."""
        for handle in self._deadlines.take_due(now):
            peer = self._peers.by_handle[handle]
            limits = peer.limits
            if limits.ping and now >= peer.sent + limits.ping:
                self._send_message(peer, PING, now)
            if limits.silence and peer.keys and now >= max(peer.heard, peer.silent_since) + limits.silence:
                peer.silent_since = now
                self.events.append(PeerSilent(peer.handle))
            self._schedule(peer)

    def _schedule(self, peer: Peer) -> None:
        """What may have brought a deadline of `peer` nearer has happened."""
        self._deadlines.set(peer.handle, _due(peer))

    # --- peers and keys: see `interface.DataPlane` --------------------------------------------------------

    def add_peer(self, handle: int, link: Link, endpoint: SockAddr, peer_id: int, limits: PeerLimits) -> None:
        """Make a peer known."""
        peer = self._peers.add(handle, link, endpoint, peer_id, limits)
        peer.pipeline = make_pipeline(limits.payload, self._entropy)

    def update_peer(self, handle: int, now: float, *, peer_id: int | None, limits: PeerLimits | None) -> None:
        """Change what is given; new limits begin a new wait for silence."""
        peer = self._peers.get(handle)
        if peer_id is not None:
            peer.peer_id = checked_peer_id(peer_id)
        if limits is not None:
            if limits.payload != peer.limits.payload:
                peer.pipeline = make_pipeline(limits.payload, self._entropy)
            peer.limits = limits
            peer.heard = now
        for key in peer.keys.values():
            key.address(peer.peer_id)
            key.limit(peer.limits)
        self._schedule(peer)

    def set_addresses(
        self,
        handle: int,
        addresses: Iterable[IPv4Address | IPv6Address],
        networks: Iterable[IPv4Network | IPv6Network] = (),
    ) -> None:
        """Give a peer its inner addresses, and the networks behind it."""
        self._peers.set_addresses(handle, addresses, networks)

    def remove_peer(self, handle: int) -> None:
        """Forget a peer and its keys."""
        self._peers.remove(handle)
        self._deadlines.set(handle, None)

    def install_key(self, handle: int, key_id: int, keys: DataKeys, now: float) -> None:
        """Receive under `key_id` from now on."""
        peer = self._peers.get(handle)
        if not 0 <= key_id <= 7:
            raise MisuseError(f"there is no key id {key_id}")
        if key_id not in peer.keys and len(peer.keys) >= MAX_KEYS:
            raise MisuseError(f"peer {handle} has {MAX_KEYS} keys already")
        if not peer.keys:
            peer.heard = now  # before there was a key, nothing could be heard
        self._stop_sending(peer, key_id)
        peer.keys[key_id] = make_key(key_id, keys, peer.peer_id, peer.limits, self._entropy)
        self._schedule(peer)

    def activate_key(self, handle: int, key_id: int, now: float) -> None:
        """Send under `key_id` from now on."""
        peer = self._peers.get(handle)
        key = peer.keys.get(key_id)
        if key is None:
            raise MisuseError(f"peer {handle} has no key {key_id}")
        if peer.sending is None:
            peer.sent = now
        peer.sending = None if key.spent else key
        self._schedule(peer)

    def retire_key(self, handle: int, key_id: int) -> None:
        """Forget `key_id`; nothing happens if it is not there."""
        peer = self._peers.get(handle)
        self._stop_sending(peer, key_id)
        peer.keys.pop(key_id, None)

    def send_inner(self, handle: int, payload: bytes, now: float) -> None:
        """Put `payload`, an OCC message, sealed into the outbox; nothing happens without a key."""
        self._send_message(self._peers.get(handle), payload, now)

    def counters(self, handle: int) -> Counters:
        """Totals of a peer."""
        peer = self._peers.get(handle)
        return Counters(
            bytes_in=peer.bytes_in,
            bytes_out=peer.bytes_out,
            packets_in=peer.packets_in,
            packets_out=peer.packets_out,
            dropped_replay=peer.dropped_replay,
            dropped_auth=peer.dropped_auth,
            dropped_other=peer.dropped_other,
            dropped_compressed=peer.dropped_compressed,
        )

    def _stop_sending(self, peer: Peer, key_id: int) -> None:
        if peer.sending is not None and peer.sending.key_id == key_id:
            peer.sending = None


def _due(peer: Peer) -> float | None:
    """When there is something to do for `peer`: a ping, or to say that it is silent."""
    deadlines = []
    if peer.limits.ping and peer.sending is not None:
        deadlines.append(peer.sent + peer.limits.ping)
    if peer.limits.silence and peer.keys:
        deadlines.append(max(peer.heard, peer.silent_since) + peer.limits.silence)
    return min(deadlines, default=None)
