# SPDX-License-Identifier: BSD-2-Clause
"""A session: one association with one peer, its key slots and their renegotiation. Shared by all roles.

Three things drive it, each with the time `now`: packets from the peer (`receive`), time (`tick`), and its owner, the
role machine (`renegotiate`, `send_message`, `answer`). Each returns nothing; what happened is collected by `drain`,
as packets to send and as `Happening`s that the role must act on.

At most three slots exist: the *current* one (whose key is the newest established), the *next* one while a
renegotiation runs, and the *lame duck*, an older key that is still accepted for ``tran-window``.
"""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Common
from qubes_miragevpn.crypto.kdf import KeySource
from qubes_miragevpn.crypto.statickey import KEY2_SIZE
from qubes_miragevpn.dataplane.interface import DataKeys
from qubes_miragevpn.protocol.control.keyslot import (
    AwaitReset,
    Established,
    Exchanging,
    Handshaking,
    Judging,
    KeySlot,
    derive_keys,
    phase_of,
)
from qubes_miragevpn.protocol.control.legality import Phase, Role, require_legal, require_ours
from qubes_miragevpn.protocol.control.packing import Packing
from qubes_miragevpn.protocol.control.reliability import Incoming, Reliability
from qubes_miragevpn.protocol.control.renewal import following, renewal_after, waiting_time
from qubes_miragevpn.protocol.control.tls import TlsEndpoint
from qubes_miragevpn.protocol.happenings import (
    ClientIntroduced,
    DropKey,
    Happening,
    Introduction,
    KeyMaterialReady,
    MessageDropped,
    MessageReceived,
    UseKey,
)
from qubes_miragevpn.protocol.wire import earlyneg, keymethod2
from qubes_miragevpn.protocol.wire.keymethod2 import KeyMethod2
from qubes_miragevpn.protocol.wire.messages import Malformed, split_record
from qubes_miragevpn.protocol.wire.packet import RESETS, Body, Head, Opcode, read_body
from qubes_miragevpn.protocol.wrap.dynamic import LABEL
from qubes_miragevpn.protocol.wrap.keys import Opened
from qubes_miragevpn.protocol.wrap.state import WrapState

_NOTHING = Secret(b"")


class Session:
    """See the module's docstring. Any `PeerError` that is not a mere drop ends the session; its owner forgets it."""

    def __init__(
        self,
        role: Role,
        common: Common,
        *,
        own_sid: bytes,
        wrap: WrapState,
        tls: Callable[[], TlsEndpoint],
        entropy: Callable[[int], bytes],
        introduction: Callable[[], Introduction],
        stream: bool,
        unasked: bool = False,
    ) -> None:
        """`stream`: the transport is reliable by itself, so nothing is retransmitted.

        `unasked`: a server may begin as well, without having heard us, as the ends of a tunnel between two do.
        """
        self.role = role
        self.own_sid = own_sid
        self.peer_sid: bytes | None = None
        self._common = common
        self._wrap = wrap
        self._unasked = unasked
        self._new_tls = tls
        self._entropy = entropy
        self._introduction = introduction
        self._retry = 0.0 if stream else common.timers.tls_timeout
        self._renew_after = renewal_after(common.timers, role, entropy)
        self._slots: dict[int, KeySlot] = {}
        self._current: KeySlot | None = None
        self._next: KeySlot | None = None
        self._lame: KeySlot | None = None
        self._peer_fingerprint: bytes | None = None
        self._packets: list[bytes] = []
        self._happenings: list[Happening] = []
        self._packing = Packing(wrap, own_sid, common.max_packet_size, stream=stream)
        self._place_proved = True  # the peer has heard us where we think it is

    # --- what the owner does

    def renew_after(self, seconds: float) -> None:
        """Renew keys after so many seconds instead of what the configuration says; 0 never."""
        self._renew_after = seconds

    def start(self, now: float, *, place_proved: bool = True) -> None:
        """Begin as the side that sends its hard reset first (a client), or that answers on a stream (a server).

        A server that answers on UDP without `place_proved` answers each reset once, and repeats nothing unasked.
        """
        opcode = self._wrap.reset if self.role is Role.CLIENT else Opcode.HARD_RESET_SERVER
        self._place_proved = place_proved
        slot = self._add_slot(0, now, Reliability(self._retry))
        slot.reliability.queue(opcode, b"")
        if self.role is Role.CLIENT:  # a server's reset leaves with the acknowledgement of the client's
            self._flush(now)

    def start_after_cookie(self, peer_sid: bytes, now: float) -> None:
        """Begin as a UDP server whose stateless answer was confirmed: both resets are behind us."""
        slot = self._add_slot(0, now, Reliability(self._retry, first_send_id=1, first_receive_id=1))
        self.peer_sid = peer_sid
        slot.state = Handshaking(self._new_tls())

    def renegotiate(self, now: float) -> None:
        """Begin a renegotiation unless one is running or the first key is not in use yet."""
        if self._next is None and self._renewable(self._current):
            slot = self._begin_renegotiation(now)
            slot.reliability.queue(Opcode.SOFT_RESET, b"")
            self._flush(now)

    def send_message(self, text: str, now: float) -> None:
        """Send one control message over the newest established TLS session."""
        slot = self._current
        if slot is not None and isinstance(slot.state, Established):
            slot.state.tls.write(text.encode() + b"\0")
            self._pull_tls(slot, slot.state.tls)
            self._flush(now)

    def answer(self, key_id: int, hello: KeyMethod2, options: str, now: float, *, peer_info: str = "") -> None:
        """Server: accept the client's introduction and send our part of key method 2."""
        slot = self._slots[key_id]
        assert isinstance(slot.state, Judging)
        own = KeySource(_NOTHING, self._entropy(32), self._entropy(32))
        reply = KeyMethod2(own, options, "", _NOTHING, peer_info)
        slot.state.tls.write(keymethod2.encode(reply))
        self._pull_tls(slot, slot.state.tls)
        self._establish(slot, Established(slot.state.tls, hello.source, own), hello, now)
        self._flush(now)

    def derive(self, key_id: int, suite: str, *, ekm: bool, epoch: bool) -> DataKeys:
        """Derive the data keys of an established slot."""
        slot = self._slots[key_id]
        assert isinstance(slot.state, Established) and self.peer_sid is not None
        server = self.role is Role.SERVER
        sids = (self.peer_sid, self.own_sid) if server else (self.own_sid, self.peer_sid)
        digest = self._common.digest
        return derive_keys(
            slot.state, suite, digest, ekm=ekm, epoch=epoch, server=server, client_sid=sids[0], server_sid=sids[1]
        )

    def protect_renegotiations(self) -> None:
        """Both sides agreed on dynamic tls-crypt: key ids other than 0 are protected by it from now on."""
        slot = self._slots.get(0)
        if slot is not None and isinstance(slot.state, Established):
            exported = slot.state.tls.export(LABEL, KEY2_SIZE)
            self._wrap.protect_renegotiations(exported, server=self.role is Role.SERVER)

    def key_in_use(self, key_id: int) -> None:
        """The peer was seen to use `key_id`: it has the key, so we may send under it."""
        slot = self._slots.get(key_id)
        if slot is not None and slot is self._current:
            self._use(slot)

    def tls_of(self, key_id: int) -> TlsEndpoint:
        """The TLS session of a slot that is past its handshake."""
        state = self._slots[key_id].state
        assert isinstance(state, Exchanging | Judging | Established)
        return state.tls

    @property
    def judged(self) -> bool:
        """A client's certificate and introduction are with the server, which has not answered them yet."""
        slot = self._next
        return self._current is None and slot is not None and isinstance(slot.state, Exchanging)

    def drain(self) -> tuple[list[bytes], list[Happening]]:
        """Take the packets to send and what happened since the last call."""
        packets, self._packets = self._packets, []
        happenings, self._happenings = self._happenings, []
        return packets, happenings

    # --- packets

    def open(self, packet: bytes) -> Opened:
        """Verify the protection of `packet`; raises `PeerError` (drop)."""
        return self._wrap.open(packet)

    def proves_place(self, opened: Opened) -> bool:
        """Whether the peer is known to hear us where `opened` came from: it says our session id, or did before."""
        return self._place_proved or read_body(opened.head.opcode, opened.body).remote_sid == self.own_sid

    def receive(self, opened: Opened, now: float) -> None:
        """Take one verified packet; raises `PeerError` to drop it or to end the session."""
        head = opened.head
        slot = self._slots.get(head.key_id)
        require_legal(self.role, head.opcode, phase_of(slot))
        body = read_body(head.opcode, opened.body)
        wanted = head.opcode is Opcode.HARD_RESET_SERVER and earlyneg.wrapped_key_wanted(body.payload)
        require_ours(head, body, own_sid=self.own_sid, peer_sid=self.peer_sid)
        if phase_of(slot) is Phase.AWAIT_RESET and body.message_id == 0 and head.opcode not in RESETS:
            raise PeerError("the first packet of a key slot is not a reset")
        if self.peer_sid is None and body.remote_sid is None and self.role is Role.CLIENT and not self._unasked:
            raise PeerError("server's hard reset acknowledges nothing")
        self._wrap.admit(opened)
        if self.peer_sid is None:
            self.peer_sid = head.sid
            self._packing.owes_key = wanted and bool(self._wrap.wrapped_size)  # who has none owes none
        if slot is None:
            slot = self._accept_soft_reset(head, body, now)
        self._prove_place(slot, head, body, now)
        slot.reliability.acknowledge(body.acks, now)
        if body.message_id is not None:
            for incoming in slot.reliability.receive(body.message_id, Incoming(head.opcode, body.payload)):
                self._take(slot, incoming, now)
        self._flush(now)

    def _prove_place(self, slot: KeySlot, head: Head, body: Body, now: float) -> None:
        if self._place_proved:
            return
        if body.remote_sid is not None:  # it was compared with ours, which went to that place only
            self._place_proved = True
        elif head.opcode in RESETS:
            slot.reliability.send_again(now)

    def _accept_soft_reset(self, head: Head, body: Body, now: float) -> KeySlot:
        current = self._current
        if current is None or not isinstance(current.state, Established) or self._next is not None:
            raise PeerError("soft reset before the running handshake is done")
        if not self._renewable(current):
            raise PeerError("soft reset before the first key is in use")  # a login may be open; it is repeated
        if head.key_id != following(current.key_id):
            raise PeerError(f"soft reset for key id {head.key_id} after {current.key_id}")
        slot = self._begin_renegotiation(now)
        slot.reliability.queue(Opcode.SOFT_RESET, b"")
        return slot

    def _take(self, slot: KeySlot, incoming: Incoming, now: float) -> None:
        """Handle one packet that is in order."""
        if incoming.opcode in RESETS:
            if isinstance(slot.state, AwaitReset):
                slot.state = Handshaking(self._new_tls())
                self._feed(slot, slot.state.tls, b"", now)
            return
        match slot.state:
            case AwaitReset():
                raise AssertionError("the first packet of a key slot is not a reset")
            case Handshaking(tls) | Exchanging(tls) | Judging(tls) | Established(tls):
                self._feed(slot, tls, incoming.payload, now)

    def _feed(self, slot: KeySlot, tls: TlsEndpoint, data: bytes, now: float) -> None:
        """Hand TLS bytes to the slot's endpoint; on failure what it wants to say (an alert) still goes out."""
        try:
            records = tls.feed(data)
        except PeerError:
            self._pull_tls(slot, tls)
            self._flush(now)
            raise
        if isinstance(slot.state, Handshaking) and tls.established:
            self._lock_identity(tls)
            slot.state = Exchanging(tls, self._introduce(tls) if self.role is Role.CLIENT else None)
        for record in records:
            self._take_record(slot, tls, record, now)
        self._pull_tls(slot, tls)

    def _lock_identity(self, tls: TlsEndpoint) -> None:
        """A renegotiation may not change who the peer is."""
        if self._peer_fingerprint not in (None, tls.peer.fingerprint):
            raise PeerError("the peer's certificate changed in a renegotiation", Consequence.END_SESSION)
        self._peer_fingerprint = tls.peer.fingerprint

    def _introduce(self, tls: TlsEndpoint) -> KeySource:
        own = KeySource(Secret(self._entropy(48)), self._entropy(32), self._entropy(32))
        said = self._introduction()
        tls.write(keymethod2.encode(KeyMethod2(own, said.options, said.username, said.password, said.peer_info)))
        return own

    def _take_record(self, slot: KeySlot, tls: TlsEndpoint, record: bytes, now: float) -> None:
        match slot.state:
            case Exchanging(_, own) if self.role is Role.CLIENT:
                assert own is not None
                reply = keymethod2.read(record, from_client=False)
                self._establish(slot, Established(tls, own, reply.source), reply, now)
            case Exchanging():
                hello = keymethod2.read(record, from_client=True)
                slot.state = Judging(tls)
                self._happenings.append(ClientIntroduced(slot.key_id, hello))
            case Established():
                self._take_messages(record)
            case _:
                raise PeerError("application data at the wrong moment", Consequence.END_SESSION)

    def _take_messages(self, record: bytes) -> None:
        try:
            found = split_record(record)
        except PeerError as error:  # the packets that carried it were fine, so the session goes on
            found = [Malformed(error.reason)]
        self._happenings += [
            MessageDropped(item.reason) if isinstance(item, Malformed) else MessageReceived(item) for item in found
        ]

    # --- key slots

    def _add_slot(self, key_id: int, now: float, reliability: Reliability) -> KeySlot:
        slot = KeySlot(key_id, reliability, now, AwaitReset())
        self._slots[key_id] = slot
        self._next = slot
        return slot

    def _renewable(self, slot: KeySlot | None) -> bool:
        """Whether there is something to renew: a key that data goes under, or did (then `slot` waits to follow it)."""
        return slot is not None and isinstance(slot.state, Established) and (slot.active or slot.key_id != 0)

    def _begin_renegotiation(self, now: float) -> KeySlot:
        """Make room (the lame duck goes, the current key is used for sending at last) and add the next slot."""
        assert self._current is not None
        self._use(self._current)
        return self._add_slot(following(self._current.key_id), now, Reliability(self._retry))

    def _establish(self, slot: KeySlot, state: Established, said: KeyMethod2, now: float) -> None:
        slot.state = state
        slot.established_at = now
        timers = self._common.timers
        if self._current is not None:  # the first key has no predecessor to wait with
            slot.use_by = now + waiting_time(timers, self._renew_after)
        if self._lame is not None:
            self._forget(self._lame)
        self._lame, self._current, self._next = self._current, slot, None
        self._happenings.append(KeyMaterialReady(slot.key_id, said.options, said.peer_info))

    def _use(self, slot: KeySlot) -> None:
        if not slot.active:
            slot.active = True
            self._happenings.append(UseKey(slot.key_id))

    def use_first_key(self) -> None:
        """Send under the current key at once: there is no older one."""
        if self._current is not None:
            self._use(self._current)

    def _forget(self, slot: KeySlot) -> None:
        self._slots.pop(slot.key_id, None)
        if slot is self._lame:
            self._lame = None
        self._happenings.append(DropKey(slot.key_id))

    # --- time

    def tick(self, now: float, *, renew: bool = True) -> None:
        """Do what is due; raises `PeerError` (end of session) when a handshake took too long.

        Without `renew` a key that is old enough is not renewed yet.
        """
        timers = self._common.timers
        if self._next is not None and now >= self._next.began + timers.hand_window:
            raise PeerError(f"no TLS handshake within {timers.hand_window:g} s", Consequence.END_SESSION)
        current = self._current
        if current is not None:
            # While something of ours is not acknowledged, the peer may still lack what it needs to derive the key.
            confirmed = current.reliability.idle
            if confirmed and now >= current.use_by:
                self._use(current)
            if renew and confirmed and self._renew_after and now >= current.established_at + self._renew_after:
                self.renegotiate(now)
        if self._lame is not None and current is not None and now >= current.established_at + timers.tran_window:
            self._forget(self._lame)
        if self._place_proved:
            self._flush(now)

    def next_deadline(self, *, renew: bool = True) -> float | None:
        """When `tick` has something to do, or None; `renew` as there."""
        timers = self._common.timers
        times: list[float] = []
        if self._place_proved:
            times += [t for slot in self._slots.values() if (t := slot.reliability.next_deadline()) is not None]
        if self._next is not None:
            times.append(self._next.began + timers.hand_window)
        current = self._current
        if current is not None:
            if not current.active and current.reliability.idle:
                times.append(current.use_by)
            due = renew and self._renew_after and self._next is None
            if due and current.reliability.idle and self._renewable(current):
                times.append(current.established_at + self._renew_after)
            if self._lame is not None:
                times.append(current.established_at + timers.tran_window)
        return min(times, default=None)

    # --- output

    def _pull_tls(self, slot: KeySlot, tls: TlsEndpoint) -> None:
        self._packing.queue(slot, tls.take_output())

    def _flush(self, now: float) -> None:
        """Put on the wire what is due on every slot."""
        for slot in self._slots.values():
            self._packets += self._packing.due(slot, self.peer_sid, now)
