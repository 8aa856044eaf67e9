# SPDX-License-Identifier: BSD-2-Clause
"""A client's conversation with one server over one open transport: from the hard reset to the last data key.

It pulls the settings, installs and activates keys, and answers control messages. Its effects gather in `effects`;
when it cannot go on it raises `Over`, and the client decides what follows. Everything that the server pushed lives
here and dies with it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import assert_never

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import ClientConfig, Family, Proto, PulledOptions
from qubes_miragevpn.config.pushed import parse_push
from qubes_miragevpn.dataplane.inband import OCC_EXIT
from qubes_miragevpn.dataplane.interface import (
    NO_PEER_ID,
    CompressedDropped,
    Floated,
    KeyExhausted,
    KeyInUse,
    Link,
    OccMessage,
    PeerEvent,
    PeerExited,
    PeerSilent,
    SockAddr,
)
from qubes_miragevpn.protocol.contract import (
    ActivateKey,
    AddPeer,
    AskChallenge,
    CloseTransport,
    CountTraffic,
    Drop,
    Effect,
    InstallKey,
    Level,
    Notify,
    OpenUrl,
    RemovePeer,
    RetireKey,
    SendInner,
    Transmit,
    TunnelChanged,
    TunnelDown,
    TunnelUp,
)
from qubes_miragevpn.protocol.control.tls import CertificateUnwanted
from qubes_miragevpn.protocol.ends import End, Over, refusal
from qubes_miragevpn.protocol.happenings import (
    ClientIntroduced,
    DropKey,
    Happening,
    KeyMaterialReady,
    MessageDropped,
    MessageReceived,
    UseKey,
)
from qubes_miragevpn.protocol.inquiry import Inquiries
from qubes_miragevpn.protocol.leaving import Farewell, Lifetime
from qubes_miragevpn.protocol.limits import carrier_of
from qubes_miragevpn.protocol.login import Login
from qubes_miragevpn.protocol.pushes import Pushes, in_few_lines
from qubes_miragevpn.protocol.ration import Pace, Ration
from qubes_miragevpn.protocol.remotes import Try
from qubes_miragevpn.protocol.session import Session
from qubes_miragevpn.protocol.terms import Terms, between_two, by_push
from qubes_miragevpn.protocol.wire import occ
from qubes_miragevpn.protocol.wire.messages import (
    Asked,
    AuthFailed,
    AuthPending,
    ChallengeResponse,
    Exit,
    Halt,
    Message,
    Other,
    PushReply,
    PushRequest,
    PushUpdate,
    Restart,
    UrlShown,
)

PEER = 0
"""The data plane's handle of the one peer that a client has."""

PUSH_AGAIN = 5.0  # seconds between PUSH_REQUESTs
PATIENCE = Pace(20, 60.0)
"""Of messages that the user sees, or that set a timer: a server could fill logs, and a screen with questions."""
_NEGOTIATED = frozenset({"link-mtu", "auth", "keysize", "ifconfig"})
"""What of the options strings means nothing where the cipher is negotiated; two equals know their own addresses."""
_NO_ANSWER = "(server unreachable, or its tls-auth or tls-crypt key is another)"
_NO_VERDICT = " (the server said nothing to our certificate: it may not accept it)"


class Conversation:
    """Driven like a machine, with methods instead of events; each may raise `Over`."""

    def __init__(
        self,
        config: ClientConfig,
        session: Session,
        login: Login,
        number: Callable[[], int],
        link: Link,
        endpoint: SockAddr,
        step: Try,
        now: float,
        tunnel: tuple[str, ...] | None = None,
    ) -> None:
        """`tunnel`: the settings that nobody pushes, where the peer is an equal (``tls-client`` without ``pull``)."""
        self.link = link
        self.step = step
        self.effects: list[Effect] = []
        self.up_since: float | None = None
        self._config = config
        self._session = session
        self._endpoint = endpoint
        self._floats = config.common.floats
        self._login = login
        self._number = number  # of the next question
        self._began = now
        self._settings_by = now + config.common.timers.hand_window
        self._lifetime = Lifetime(now)  # that of the tunnel, once it works
        self._farewell: Farewell | None = None  # while we leave
        self._question: int | None = None  # the server's, which waits for its answer
        self._heard = False  # the server answered with something valid
        self._key_id: int | None = None  # newest established key
        self._server_options = ""
        self._pushes = Pushes()
        self._patience = Ration(PATIENCE)
        self._renewals = Ration(PATIENCE)  # of which the log tells
        self._next_request = 0.0
        self._tunnel = tunnel
        self._terms: Terms | None = None
        self._inquiries: Inquiries | None = None
        self._installed: set[int] = set()

    # --- what the client does with it

    def start(self, now: float) -> None:
        """Send the first packet."""
        self._guarded(lambda: self._session.start(now), now)

    def is_from_server(self, link: Link, endpoint: SockAddr) -> bool:
        """Whether a control packet on `link` from `endpoint` is the server's; with ``float`` the socket takes all."""
        return link == self.link and (endpoint == self._endpoint or not self._floats)

    def packet(self, packet: bytes, now: float) -> None:
        """Take one control packet."""
        if self._farewell is not None:
            return
        self._guarded(lambda: self._receive(packet, now), now)

    def _receive(self, packet: bytes, now: float) -> None:
        self._session.receive(self._session.open(packet), now)
        self._heard = True

    def renegotiate(self, now: float) -> None:
        """Begin a renegotiation."""
        self._guarded(lambda: self._session.renegotiate(now), now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        timers = self._config.common.timers
        if not self._heard and now >= self._began + timers.connect_timeout:
            raise Over(End.LOST, f"no answer within {timers.connect_timeout:g} s {_NO_ANSWER}")
        if self._terms is None and now >= self._settings_by:
            problem = "no TLS handshake" if self._key_id is None else "the server pushed no settings"
            hint = self.suspicion if self._heard else f" {_NO_ANSWER}"
            raise Over(End.LOST, f"{problem} within {self._settings_by - self._began:g} s{hint}")
        if self._farewell is not None:
            self._say_again(self._farewell, now)
            return
        if self._lifetime.over(now):
            self._end_for_good("the session has lasted as long as it may (session-timeout)", now)
        if self._lifetime.look(now):
            self.effects.append(CountTraffic(PEER))
        self._guarded(lambda: self._tick_session(now), now)

    def _tick_session(self, now: float) -> None:
        self._session.tick(now)
        if self._key_id is not None and self._terms is None and now >= self._next_request:
            self._ask_for_settings(now)

    def _ask_for_settings(self, now: float) -> None:
        """At once and then often: a server that pushes unasked takes no notice, the others wait for it."""
        self._next_request = now + PUSH_AGAIN
        self._session.send_message("PUSH_REQUEST", now)

    @property
    def suspicion(self) -> str:
        """What silence, or the end of the connection, may mean at this point, or ""."""
        return _NO_VERDICT if self._session.judged else ""

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        timers = self._config.common.timers
        if self._farewell is not None:
            return self._farewell.at
        times = [self._session.next_deadline(), self._lifetime.deadline]
        if not self._heard:
            times.append(self._began + timers.connect_timeout)
        if self._terms is None:
            times.append(self._settings_by)
            if self._key_id is not None:
                times.append(self._next_request)
        return min((t for t in times if t is not None), default=None)

    def counted(self, carried: int, now: float) -> None:
        """Take the count of what the tunnel has carried so far."""
        if self._lifetime.too_idle(carried, now):
            self._end_for_good("next to nothing was carried for too long (inactive)", now)

    def _end_for_good(self, reason: str, now: float) -> None:
        self._say_goodbye(now)
        raise Over(End.FORBIDDEN, reason)

    def plane_event(self, event: PeerEvent, now: float) -> None:
        """Take an event of the data plane, which only knows of us once the tunnel works."""
        if self._terms is None or self._farewell is not None:
            return
        match event:
            case KeyExhausted(_, key_id):
                if key_id in self._installed:
                    self.renegotiate(now)
            case KeyInUse(_, key_id):
                self._guarded(lambda: self._session.key_in_use(key_id), now)
            case PeerSilent():
                if self._terms.ping_exits(self._config):
                    raise Over(End.FORBIDDEN, "the server fell silent (ping-exit)")
                raise Over(End.LOST, "the server fell silent (ping-restart)")
            case PeerExited():
                raise Over(End.LOST, "the server left")
            case Floated(_, endpoint):
                self._endpoint = endpoint
            case OccMessage(_, message, size):
                if self._inquiries is not None and (answer := self._inquiries.answer(message, size, now)):
                    self.effects.append(SendInner(PEER, answer))
            case CompressedDropped(_, reason):
                self._say(Level.WARNING, f"the server compresses; such packets are dropped: {reason}")

    def leave(self, now: float) -> None:
        """Tell the server that we leave; raises `Over` when that is done, at once or with `tick`."""
        lost_easily = self._say_goodbye(now)
        pushed = None if self._terms is None else self._terms.pulled.explicit_exit_notify
        times = self._config.common.explicit_exit_notify if pushed is None else pushed
        self._farewell, left_before = Farewell(times if lost_easily else 1, now), self._farewell
        if self._farewell.over or left_before is not None:
            raise Over(End.LEFT, "disconnected")

    @property
    def leaving(self) -> bool:
        """Nothing is left to do here but to say farewell."""
        return self._farewell is not None

    def _say_again(self, farewell: Farewell, now: float) -> None:
        if farewell.due(now):
            self.effects.append(SendInner(PEER, OCC_EXIT))
        if farewell.over:
            raise Over(End.LEFT, "disconnected")

    def _say_goodbye(self, now: float) -> bool:
        """Tell the server that we leave, in the way it understands; True if that may get lost on the way."""
        if self._terms is None:
            return False
        if not self._terms.pulled.cc_exit:
            if self.step.remote.proto is not Proto.UDP or not self._installed:
                return False
            self.effects.append(SendInner(PEER, OCC_EXIT))
            return True
        with suppress(Over):  # the session is dead already, so there is nobody to tell
            self._guarded(lambda: self._session.send_message("EXIT", now), now)
        return False

    def close(self, reason: str) -> None:
        """Undo everything that was asked for."""
        if self._terms is not None:
            self.effects += [TunnelDown(reason), RemovePeer(PEER)]
        self.effects.append(CloseTransport(self.link))

    # --- what the session did

    def _guarded(self, action: Callable[[], None], now: float) -> None:
        """Do something with the session and turn what came of it into effects."""
        try:
            action()
            self._collect(now)
        except PeerError as error:
            self._fail(error)

    def _fail(self, error: PeerError) -> None:
        """A `PeerError`: forget the packet, or end the conversation after the TLS alert that tells the peer why."""
        if error.consequence is Consequence.DROP:
            self.effects.append(Drop(error.reason))
            return
        self._transmit(self._session.drain()[0])
        ends = error.consequence is Consequence.FATAL
        if isinstance(error, CertificateUnwanted) and self._config.auth_retry != "none":
            ends = False  # trying for ever is what the profile asks for
        raise Over(End.REFUSED if ends else End.LOST, error.reason)

    def _transmit(self, packets: list[bytes]) -> None:
        self.effects += [Transmit(self.link, self._endpoint, packet) for packet in packets]

    def _collect(self, now: float) -> None:
        """Turn what the session did into effects, until it has nothing more to say."""
        while True:
            packets, happenings = self._session.drain()
            self._transmit(packets)
            if not happenings:
                return
            for happening in happenings:
                self._happened(happening, now)

    def _happened(self, happening: Happening, now: float) -> None:
        match happening:
            case KeyMaterialReady(key_id, options, peer_info):
                if self._terms is None:
                    self._key_id, self._server_options = key_id, options
                    self._say(Level.INFO, f"authenticated the server ({self._session.tls_of(key_id).describe()})")
                    if self._tunnel is None:
                        self._ask_for_settings(now)
                    else:
                        self._agree(self._tunnel, key_id, peer_info, now)
                else:
                    if self._renewals.take(now):
                        self._say(Level.INFO, f"renegotiated (key id {key_id})")
                    self._install(key_id)
            case UseKey(key_id):
                if key_id in self._installed:
                    self.effects.append(ActivateKey(PEER, key_id))
            case DropKey(key_id):
                if key_id in self._installed:
                    self._installed.discard(key_id)
                    self.effects.append(RetireKey(PEER, key_id))
            case MessageReceived(message):
                self._message(message, now)
            case MessageDropped(reason):
                self.effects.append(Drop(reason))
            case ClientIntroduced():
                raise PeerError("the server introduced itself as a client", Consequence.END_SESSION)
            case other:
                assert_never(other)

    def _message(self, message: Message, now: float) -> None:
        rationed = isinstance(message, AuthPending | Asked | UrlShown | Other) or (
            isinstance(message, PushReply) and self._terms is not None
        )
        if rationed and not self._patience.take(now):
            self.effects.append(Drop(f"more than {PATIENCE.most} messages for the user in {PATIENCE.period:g} s"))
            return
        match message:
            case PushReply() | PushUpdate() if self._tunnel is not None:
                self.effects.append(Drop("a push from somebody who was not asked for it"))
            case PushReply(options, more):
                if self._terms is None and self._key_id is not None:
                    self._pushed(options, more, now)
                else:
                    self._renew_token(options)
            case PushUpdate(options, more):
                if self._terms is None:
                    self.effects.append(Drop("PUSH_UPDATE before the tunnel works"))
                else:
                    self._update(options, more, now)
            case AuthFailed(failure):
                raise Over(End.UNAUTHORISED, refusal(failure), failure=failure)
            case AuthPending(timeout):
                self._wait_for_login(timeout, now)
            case Asked(question):
                self._question = self._number()
                self.effects.append(AskChallenge(self._question, question.text, question.echo, question.wanted))
            case UrlShown(url):
                self.effects.append(OpenUrl(url))
            case Restart(reason, keep, elsewhere):
                told = f"the server asks for a new connection: {reason or 'no reason given'}"
                raise Over(End.LOST, told, keep=keep, elsewhere=elsewhere)
            case Halt(reason):
                raise Over(End.FORBIDDEN, f"the server forbids to connect again: {reason or 'no reason given'}")
            case Exit():
                raise Over(End.LOST, "the server left")
            case PushRequest() | ChallengeResponse():
                self.effects.append(Drop("PUSH_REQUEST from a server"))
            case Other(text):
                self._say(Level.INFO, f"the server says: {text}")
            case other:
                assert_never(other)

    def _wait_for_login(self, timeout: float | None, now: float) -> None:
        """The login takes longer; as OpenVPN, at most half the time between renewals, or the hand-window."""
        if self._terms is not None:
            return
        timers = self._config.common.timers
        most = max(timers.reneg_sec / 2, timers.hand_window)
        wait = min(timers.hand_window if timeout is None else timeout, most)
        self._settings_by = min(max(self._settings_by, now + wait), self._began + timers.hand_window + most)
        left = self._settings_by - now
        self._say(Level.INFO, f"the server waits for the login to be completed, {left:.0f} s at most")

    def answer(self, request: int, answer: Secret, now: float) -> None:
        """Take the user's answer to the server's question."""
        if request == self._question:
            self._question = None
            text = base64.b64encode(answer.reveal()).decode("ascii")
            self._guarded(lambda: self._session.send_message(f"CR_RESPONSE,{text}", now), now)

    def asks(self, request: int) -> bool:
        """Whether the server's question of this number is still open."""
        return request == self._question

    def _renew_token(self, options: tuple[str, ...]) -> None:
        """A push to a working tunnel; a new token is all that is taken from it."""
        self._take_token(parse_push(options, self._config, self.step.address))

    def _take_token(self, pulled: PulledOptions) -> None:
        if pulled.auth_token is not None:
            problem = self._login.accept_token(pulled.auth_token, pulled.auth_token_user)
            self._say(Level.WARNING if problem else Level.DEBUG, problem or "the server gave a token to log in with")

    # --- what the server pushed

    def _pushed(self, options: tuple[str, ...], more: bool, now: float) -> None:
        if not self._pushes.reply(options, more=more):
            return
        self._settle(by_push(self._pushes.options, self._config, self.step.address, self._server_options), now)

    def _agree(self, tunnel: tuple[str, ...], key_id: int, peer_info: str, now: float) -> None:
        """Nobody pushes in a tunnel between two: it works as soon as there are keys."""
        said = (self._server_options, peer_info, self._session.tls_of(key_id).export)
        self._settle(between_two(tunnel, self._config, self.step.address, *said), now)

    def _settle(self, terms: Terms, now: float) -> None:
        """The tunnel works by these terms."""
        assert self._key_id is not None
        pulled = terms.pulled
        if terms.problem:
            self._say(Level.WARNING, terms.problem)
        self._compare(terms)
        self._terms = terms
        self.up_since = now
        for line in pulled.dropped:
            self._say(Level.WARNING, f"{'pushed' if self._tunnel is None else 'own'} option without effect: {line}")
        limits = terms.limits(self._config, self.step.remote, self._endpoint)
        self.effects.append(AddPeer(PEER, self.link, self._endpoint, terms.peer_id, limits))
        self._install(self._key_id)
        self._take_token(pulled)
        lasts = self._config.session_timeout if pulled.session_timeout is None else pulled.session_timeout
        timers = self._config.common.timers
        idle, least = (timers.inactive, timers.inactive_bytes) if pulled.inactive is None else pulled.inactive
        self._lifetime = Lifetime(now, lasts, idle, least)
        if pulled.reneg_sec is not None:
            self._session.renew_after(pulled.reneg_sec)
        if pulled.dynamic_tls_crypt:
            self._session.protect_renegotiations()
        self._session.use_first_key()
        self._collect(now)
        derivation = "exporter" if pulled.key_derivation_ekm else "PRF"
        tls = self._session.tls_of(self._key_id).describe()
        self.effects.append(TunnelUp(pulled.tunnel, f"{tls}, data {terms.cipher}, keys by {derivation}"))

    def _compare(self, terms: Terms) -> None:
        """Tell how the other end's settings differ from what ours need."""
        common, proto, pulled = self._config.common, self.step.remote.proto, terms.pulled
        family = Family.IPV6 if len(self._endpoint) == 4 else Family.IPV4
        framing = common.compression if pulled.compression is None else pulled.compression
        carrier = carrier_of(
            common, proto, terms.cipher, framing, peer_id=terms.peer_id != NO_PEER_ID, epoch=pulled.epoch
        )
        self._inquiries = Inquiries(occ.build(common, proto, family, server=False), carrier)
        if common.disable_occ:
            return
        settled = _NEGOTIATED | ({"comp-lzo"} if pulled.compression is not None else set())
        settled |= {"tun-mtu"} if pulled.tunnel.mtu != common.tun_mtu else set()
        expected = occ.build(common, proto, family, server=True)
        for line in occ.mismatches(expected, self._server_options, settled=settled):
            self._say(Level.WARNING, line)

    def _update(self, options: tuple[str, ...], more: bool, now: float) -> None:
        """The server changes what it pushed: the working tunnel gets the new settings, or (`PeerError`) ends."""
        updated = self._pushes.update(options, now, more=more)
        if updated is None or self._terms is None:
            return
        before = self._terms.pulled
        for name in in_few_lines(updated.ignored):
            self._say(Level.INFO, f"the server would change '{name}', which is left as it is")
        pulled = parse_push(updated.options, self._config, self.step.address)
        for line in in_few_lines(line for line in pulled.dropped if line not in before.dropped):
            self._say(Level.WARNING, f"pushed option without effect: {line}")
        changed = pulled.tunnel != before.tunnel
        self._terms = replace(self._terms, pulled=replace(before, tunnel=pulled.tunnel, dropped=pulled.dropped))
        if changed:
            self._say(Level.INFO, "the server changed the settings of the tunnel")
            self.effects.append(TunnelChanged(pulled.tunnel))

    def _install(self, key_id: int) -> None:
        assert self._terms is not None
        pulled = self._terms.pulled
        keys = self._session.derive(key_id, self._terms.cipher, ekm=pulled.key_derivation_ekm, epoch=pulled.epoch)
        self._installed.add(key_id)
        self.effects.append(InstallKey(PEER, key_id, keys))

    def _say(self, level: Level, text: str) -> None:
        self.effects.append(Notify(level, text))
