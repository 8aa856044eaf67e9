# SPDX-License-Identifier: BSD-2-Clause
"""The server role: many clients on UDP and TCP, each a session; certificates, address pool, push, keep-alive.

Driven by the network (packets, connections), time, and the operator (`UserCommand`: DISCONNECT stops the server and
tells the clients, RENEGOTIATE renews every key). A client that proved its address but not itself is a *candidate*; it
replaces an older session from the same address, or of the same name, only once it is fully authenticated. Candidates
and clients are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import assert_never

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import OneClient, PointServer, Proto, ServerConfig
from qubes_miragevpn.dataplane.inband import OCC_EXIT
from qubes_miragevpn.dataplane.interface import (
    CompressedDropped,
    Floated,
    KeyExhausted,
    KeyInUse,
    Link,
    OccMessage,
    PeerExited,
    PeerSilent,
    SockAddr,
)
from qubes_miragevpn.protocol.contract import (
    ActivateKey,
    AddPeer,
    AssignAddresses,
    ChangeSettings,
    ClientKeyJudged,
    CloseTransport,
    Command,
    DismissPeer,
    Drop,
    Effect,
    Event,
    ForgetClientKey,
    InstallKey,
    Level,
    LoginJudged,
    LoginPending,
    Notify,
    PacketReceived,
    Reconfigured,
    RemovePeer,
    RetireKey,
    SendInner,
    Stop,
    StopKind,
    TimerExpired,
    Transmit,
    TransportDown,
    TransportUp,
    UserCommand,
)
from qubes_miragevpn.protocol.control.endpoints import Endpoints
from qubes_miragevpn.protocol.happenings import (
    ClientIntroduced,
    DropKey,
    Happening,
    KeyMaterialReady,
    MessageDropped,
    MessageReceived,
    UseKey,
)
from qubes_miragevpn.protocol.serving import settings
from qubes_miragevpn.protocol.serving.entrance import Entrance, Surroundings
from qubes_miragevpn.protocol.serving.logins import Logins, refuse
from qubes_miragevpn.protocol.serving.peer import EXIT_DELAY, MAX_NAME, MAX_SHOWN, Peer, apart, tag
from qubes_miragevpn.protocol.serving.point import OtherEnd
from qubes_miragevpn.protocol.serving.registry import Registry
from qubes_miragevpn.protocol.serving.vetting import hold
from qubes_miragevpn.protocol.serving.welcome import Clients, Welcome
from qubes_miragevpn.protocol.wire.keymethod2 import KeyMethod2
from qubes_miragevpn.protocol.wire.messages import ChallengeResponse, Exit, Message, PushRequest, build_push


def _nothing_said(_name: str) -> OneClient | None:
    return None


class Server:
    """The machine: see `protocol.contract` for how it is driven."""

    def __init__(
        self,
        config: ServerConfig | PointServer,
        *,
        entropy: Callable[[int], bytes],
        unix_time: Callable[[], int],
        single: Callable[[str], OneClient | None] = _nothing_said,
    ) -> None:
        """Raises `ConfigError` for unusable certificates or keys.

        `single(name)` reads what ``client-config-dir`` says of one client, at each login: None for nothing; it raises
        `ConfigError` for a file that cannot be used.
        """
        common = config.common
        self._config = config
        self._welcome: Welcome = Clients(config, single) if isinstance(config, ServerConfig) else OtherEnd(config)
        self._logins: Logins | None = None
        if config.login is not None:
            patience = common.timers.hand_window
            self._logins = Logins(
                config.login, patience, entropy=entropy, unix_time=unix_time, emit=lambda one: self._out.append(one)
            )
        self._peers = Registry(common.timers.hand_window)
        endpoints = Endpoints(common, server=True, warn=lambda text: self._say(Level.WARNING, text))
        around = Surroundings(entropy, unix_time, endpoints)
        self._entrance = Entrance(config, self._peers, around, most=self._welcome.most, forget=self._forget)
        self._stopped = False
        self._out: list[Effect] = []

    # --- leases that outlive the program

    def recall(self, name: str, address: IPv4Address | IPv6Address) -> None:
        """This client had that address when the server last ran; one that is not in the pool is forgotten."""
        if isinstance(self._welcome, Clients):
            self._welcome.recall(name, address)

    def leases(self) -> tuple[tuple[str, str, str], ...]:
        """Name, IPv4 and IPv6 address of everybody who has, or had, a lease."""
        return self._welcome.remembered() if isinstance(self._welcome, Clients) else ()

    # --- the contract

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event and return what is to be done."""
        if self._stopped:
            return []
        self._out = []
        match event:
            case PacketReceived(link, endpoint, packet):
                self._packet(link, endpoint, packet, now)
            case TimerExpired():
                self._tick(now)
            case TransportUp(link, endpoint):
                self._accepted(link, endpoint, now)
            case TransportDown(link, reason):
                self._entrance.disconnected(link)
                for peer in self._peers.on(link):
                    self._forget(peer, f"connection lost: {printable(reason)}")
            case KeyExhausted(number):
                self._with(number, lambda peer: self._renegotiate(peer, now), now)
            case KeyInUse(number, key_id):
                self._with(number, lambda peer: peer.session.key_in_use(key_id), now)
            case PeerSilent() | Floated() | CompressedDropped() | PeerExited() | OccMessage():
                if (found := self._peers.get(event.peer)) is not None and found.served:
                    self._noticed(found, event, now)
            case UserCommand(command):
                self._command(command, now)
            case LoginJudged() | LoginPending():
                self._with(event.peer, lambda peer: self._judged(peer, event, now), now)
            case ClientKeyJudged(number):
                self._with(number, lambda peer: self._key_judged(peer, event, now), now)
            case DismissPeer(number, message):
                self._with(number, lambda peer: self._dismiss(peer, message, now), now)
            case ChangeSettings(number, options):
                self._with(number, lambda peer: self._change(peer, options, now), now)
            case Reconfigured(written):
                self._config = written
                self._welcome.reconfigured(written)
                self._entrance.most = self._welcome.most
            case _:
                self._out.append(Drop(f"{type(event).__name__} does not concern a server"))
        return self._out

    def next_deadline(self) -> float | None:
        """When `TimerExpired` is wanted."""
        times = [self._peers.next_deadline(), self._entrance.next_deadline()]
        return min((at for at in times if at is not None), default=None)

    def _noticed(
        self, peer: Peer, event: PeerSilent | Floated | CompressedDropped | PeerExited | OccMessage, now: float
    ) -> None:
        match event:
            case PeerSilent():
                self._forget(peer, "silent for too long (ping-restart)")
                if self._config.common.timers.ping_exit:
                    self._stop(StopKind.CONNECTION, "the other end fell silent (ping-exit)")
            case PeerExited():
                self._forget(peer, "left")
            case Floated(_, endpoint):
                self._peers.move(peer, endpoint)  # an authentic packet came from there: so does the control channel
                self._describe(peer)
                if peer.moves_told.take(now):
                    self._say(Level.INFO, "has moved here", peer)
            case CompressedDropped(_, reason):
                self._say(Level.WARNING, f"compresses; such packets are dropped: {reason}", peer)
            case OccMessage(_, message, size):
                if peer.inquiries is not None and (answer := peer.inquiries.answer(message, size, now)):
                    self._out.append(SendInner(peer.number, answer))

    def _accepted(self, link: Link, endpoint: SockAddr, now: float) -> None:
        try:
            closed = self._entrance.connected(link, endpoint, now)
        except PeerError as error:
            self._out += [Drop(error.reason, tag(endpoint)), CloseTransport(link)]
        else:
            self._out += [] if closed is None else [CloseTransport(closed)]

    def _command(self, command: Command, now: float) -> None:
        if command is Command.RENEGOTIATE:
            for peer in self._peers:
                self._with(peer.number, lambda peer: self._renegotiate(peer, now), now)
        elif command is Command.DISCONNECT:
            for peer in self._peers:
                self._with(peer.number, lambda peer: self._say_goodbye(peer, now), now)
            for peer in self._peers:
                self._forget(peer, "server stops")
            self._stop(StopKind.ASKED, "stopped")

    def _renegotiate(self, peer: Peer, now: float) -> None:
        """Renew its keys, but not while it is judged: each renegotiation needs a verdict of its own."""
        if not peer.judged:
            peer.session.renegotiate(now)

    def _say_goodbye(self, peer: Peer, now: float) -> None:
        if text := self._welcome.farewell(peer):
            peer.session.send_message(text, now)
        elif peer.served:
            self._out.append(SendInner(peer.number, OCC_EXIT))

    def _stop(self, kind: StopKind, reason: str) -> None:
        self._stopped = True
        self._out.append(Stop(kind, reason))

    # --- packets

    def _packet(self, link: Link, endpoint: SockAddr, packet: bytes, now: float) -> None:
        try:
            arrived = self._entrance.arrived(link, endpoint, packet, now)
        except PeerError as error:
            self._out.append(Drop(error.reason, tag(endpoint)))
            return
        if isinstance(arrived, Transmit):
            self._out.append(arrived)
            return
        peer, opened = arrived
        held = None if peer.trial is None else hold(peer, peer.trial, opened)
        if held is not None:
            self._out += held
            self._peers.reschedule(peer)
            return
        self._guarded(peer, lambda: peer.session.receive(opened, now), now)

    def _key_judged(self, peer: Peer, event: ClientKeyJudged, now: float) -> None:
        if peer.trial is None or not peer.trial.asked:
            self._out.append(Drop("a verdict on a client key that nobody waits for"))
            return
        held, peer.trial = peer.trial.held, None
        if not event.granted:
            self._say(Level.WARNING, f"its key is refused: {printable(event.why, 500)}", peer)
            self._forget(peer, "its key is refused")
        for opened in held:
            if peer in self._peers:
                self._guarded(peer, lambda opened=opened: peer.session.receive(opened, now), now)  # type: ignore[misc]

    def _forget(self, peer: Peer, reason: str) -> None:
        """Take the peer out of everything."""
        self._peers.remove(peer)
        self._welcome.dismiss(peer)
        if self._logins is not None:
            self._logins.forget(peer)
        if peer.on_trial:
            self._out.append(ForgetClientKey(peer.number))
        if peer.served:
            self._out.append(RemovePeer(peer.number))
            self._say(Level.INFO, f"is gone: {reason}", peer)
        if peer.proto is Proto.TCP:
            self._out.append(CloseTransport(peer.link))

    # --- running sessions

    def _with(self, number: int, action: Callable[[Peer], None], now: float) -> None:
        peer = self._peers.get(number)
        if peer is not None:
            self._guarded(peer, lambda: action(peer), now)

    def _guarded(self, peer: Peer, action: Callable[[], None], now: float) -> None:
        """Do something with a session; what it cannot go on after ends that session alone."""
        try:
            action()
            self._collect(peer, now)
        except PeerError as error:
            self._transmit(peer, peer.session.drain()[0])
            if error.consequence is Consequence.DROP:
                self._out.append(Drop(error.reason, peer.tag))
            elif peer in self._peers:
                self._say(Level.WARNING, error.reason, peer)
                self._forget(peer, error.reason)
        finally:
            self._peers.reschedule(peer)

    def _transmit(self, peer: Peer, packets: list[bytes]) -> None:
        self._out += [Transmit(peer.link, peer.endpoint, packet) for packet in packets]

    def _tick(self, now: float) -> None:
        hand_window = self._config.common.timers.hand_window
        for peer in self._peers.take_due(now):
            if now >= peer.leaves_at:
                self._forget(peer, "left")
            elif not (peer.served or peer.judged or peer.refused) and now >= peer.began + hand_window:
                self._out.append(Drop("handshake not finished within the hand-window", peer.tag))
                self._forget(peer, "handshake not finished")
            else:
                self._with(peer.number, lambda peer: self._passes(peer, now), now)
        self._out += [CloseTransport(link) for link in self._entrance.take_overdue(now)]

    def _passes(self, peer: Peer, now: float) -> None:
        """Time passes for a session."""
        if peer.on_trial:
            return
        peer.session.tick(now, renew=not peer.judged)
        self._settle(peer, now)

    def _settle(self, peer: Peer, now: float) -> None:
        """Refuse whom nothing lets in, once there are words for it."""
        if self._logins is not None:
            self._logins.settle(peer, now)
        elif peer.refusal is not None:
            self._out.append(refuse(peer, *peer.refusal, now))

    def _collect(self, peer: Peer, now: float) -> None:
        while True:
            packets, happenings = peer.session.drain()
            self._transmit(peer, packets)
            if not happenings:
                return
            for happening in happenings:
                self._happened(peer, happening, now)
                if peer not in self._peers:
                    return

    def _happened(self, peer: Peer, happening: Happening, now: float) -> None:
        match happening:
            case ClientIntroduced(key_id, hello):
                self._introduced(peer, key_id, hello, now)
            case KeyMaterialReady(key_id, _):
                peer.key_id = key_id
                self._settle(peer, now)  # first: a key of somebody who is refused is never used
                if peer.served:
                    self._install(peer, key_id)
                elif self._welcome.unasked(peer):
                    self._asked(peer, now)
                if self._logins is not None and peer.served:
                    self._logins.tell(peer, now)
            case UseKey(key_id):
                if key_id in peer.installed:
                    self._out.append(ActivateKey(peer.number, key_id))
            case DropKey(key_id):
                if key_id in peer.installed:
                    peer.installed.discard(key_id)
                    self._out.append(RetireKey(peer.number, key_id))
            case MessageReceived(message):
                self._message(peer, message, now)
            case MessageDropped(reason):
                self._out.append(Drop(reason, peer.tag))
            case other:
                assert_never(other)

    def _message(self, peer: Peer, message: Message, now: float) -> None:
        match message:
            case PushRequest():
                self._asked(peer, now)
            case ChallengeResponse(answer) if self._logins is not None:
                self._logins.answered(peer, answer)
            case Exit():
                # Once: a client that repeats EXIT does not prolong its stay (CVE-2024-28882).
                peer.leaves_at = min(peer.leaves_at, now + EXIT_DELAY)
            case _:
                self._out.append(Drop(f"{type(message).__name__} from a client", peer.tag))

    # --- those who are authenticated

    def _introduced(self, peer: Peer, key_id: int, hello: KeyMethod2, now: float) -> None:
        if key_id and (peer.judged or peer.refused or not peer.admitted):
            # as openvpn, which renegotiates with nobody whose login is open: each would put the verdict off
            raise PeerError("it renegotiates while its login is judged", Consequence.END_SESSION)
        facts = peer.session.tls_of(key_id).peer
        rules = self._config.login
        # somebody without a certificate is somebody by his user name alone, which is judged before he is let in
        named = rules is not None and (rules.name_is_username or not facts.fingerprint)
        called = hello.username if named else facts.common_name
        if self._config.common.peer.certificate == "optional" and not (rules and rules.name_is_username):
            called = apart(called, certified=bool(facts.fingerprint))
        if len(called.encode("utf-8", "surrogateescape")) > MAX_NAME:
            raise PeerError(f"its name is longer than {MAX_NAME} bytes", Consequence.END_SESSION)
        if peer.admitted and (called, hello.username) != (peer.identity, peer.username):
            raise PeerError("the client's name changed in a renegotiation", Consequence.END_SESSION)
        if not peer.admitted:
            peer.name, peer.identity = printable(called or "(no common name)", MAX_SHOWN), called
            peer.username, peer.certified = hello.username, facts.common_name
            peer.options = hello.options
            self._welcome.meet(peer, hello)
        if (self._logins is None or self._logins.judge(peer, hello, now)) and not peer.admitted:
            self._promote(peer, now)
        options = settings.own_options(peer, self._config.common)
        peer.session.answer(key_id, hello, options, now, peer_info=self._welcome.introduce(peer))

    def _judged(self, peer: Peer, event: LoginJudged | LoginPending, now: float) -> None:
        assert self._logins is not None
        if not self._logins.judged(peer, event, now):
            return
        if peer.served:
            self._logins.tell(peer, now)
        else:
            self._promote(peer, now)
            self._settle(peer, now)
            if peer.asked and peer.admitted:
                self._serve(peer, now)

    def _promote(self, peer: Peer, now: float) -> None:
        """The client is authenticated: it replaces what it was before, and gets an address, unless its file says no."""
        if why := self._welcome.prepare(peer, self._peers):
            peer.refusal = (why, "")
            return
        for older in self._welcome.replaced(peer, self._peers):
            self._forget(older, "it connected again")
        self._peers.require_place(self._welcome.most)
        for other in self._welcome.displaced(peer):
            self._displace(other, peer, now)
        self._welcome.admit(peer)
        self._entrance.admit(peer)

    def _displace(self, peer: Peer, by: Peer, now: float) -> None:
        """An address that this one had from the pool is another's: it comes back for another one."""
        self._say(Level.INFO, f"client {peer.name} had an address that is client {by.name}'s by its file")
        if not peer.served:
            self._forget(peer, "its address is another's")
            return
        self._describe(peer)
        self._with(peer.number, lambda peer: self._dismiss(peer, "RESTART", now), now)

    def _asked(self, peer: Peer, now: float) -> None:
        """It wants to be served, and is once it is let in."""
        peer.asked = True
        if peer.admitted and not peer.served and not peer.refused:
            self._serve(peer, now)

    def _serve(self, peer: Peer, now: float) -> None:
        """Its data channel begins."""
        peer.served = True
        for message in self._welcome.tell(peer):
            peer.session.send_message(message, now)
        peer.extra = ()
        if peer.dynamic_tls_crypt:
            peer.session.protect_renegotiations()
        peer_id, limits = self._welcome.limits(peer)
        self._out.append(AddPeer(peer.number, peer.link, peer.endpoint, peer_id, limits))
        addresses = self._describe(peer)
        self._install(peer, peer.key_id)
        peer.session.use_first_key()
        has = f"has {', '.join(map(str, addresses))}" if addresses else "is connected"
        derivation = "exporter" if peer.ekm else "PRF"
        how = f"{peer.session.tls_of(peer.key_id).describe()}, data {peer.cipher}, keys by {derivation}"
        self._say(Level.INFO, f"{has} ({how})", peer)
        for line in settings.begin(peer, self._config.common, peer_id):
            self._say(Level.WARNING, line, peer)

    def _describe(self, peer: Peer) -> tuple[IPv4Address | IPv6Address, ...] | None:
        """Tell what is inside at its end (None: everything), and who and where it is."""
        addresses = self._welcome.addresses(peer)
        if addresses is not None:
            username = printable(peer.username, 64)
            told = AssignAddresses(
                peer.number, peer.name, addresses, username, peer.cipher, peer.endpoint, peer.single.networks,
                peer.updatable,
            )  # fmt: skip
            self._out.append(told)
        return addresses

    def _dismiss(self, peer: Peer, message: str, now: float) -> None:
        """Send a client away: it is told, and soon forgotten."""
        if peer.served:
            peer.session.send_message(message, now)
            self._say(Level.INFO, f"is sent away ({printable(message)})", peer)
        peer.leaves_at = min(peer.leaves_at, now + EXIT_DELAY)

    def _change(self, peer: Peer, options: tuple[str, ...], now: float) -> None:
        """Change what it was pushed, if it announced that it can be."""
        if not peer.served or not peer.updatable:
            self._out.append(Drop("an update for a client that takes none", peer.tag))
            return
        for message in build_push(options, "PUSH_UPDATE"):
            peer.session.send_message(message, now)

    def _install(self, peer: Peer, key_id: int) -> None:
        peer.installed.add(key_id)
        keys = peer.session.derive(key_id, peer.cipher, ekm=peer.ekm, epoch=peer.epoch)
        self._out.append(InstallKey(peer.number, key_id, keys))

    def _say(self, level: Level, text: str, peer: Peer | None = None) -> None:
        self._out.append(Notify(level, text, "" if peer is None else peer.tag))
