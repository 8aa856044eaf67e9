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
from typing import assert_never

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import ClientConfig, Proto, PulledOptions
from qubes_miragevpn.config.pushed import parse_push
from qubes_miragevpn.dataplane.inband import OCC_EXIT
from qubes_miragevpn.dataplane.interface import (
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
from qubes_miragevpn.protocol.connecting.exchange import Exchange
from qubes_miragevpn.protocol.connecting.waiting import Waiting
from qubes_miragevpn.protocol.connecting.working import PEER, Working
from qubes_miragevpn.protocol.contract import (
    AskChallenge,
    CloseTransport,
    CountTraffic,
    Drop,
    Level,
    OpenUrl,
    RemovePeer,
    SendInner,
    TunnelDown,
    TunnelUp,
)
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
from qubes_miragevpn.protocol.leaving import Farewell
from qubes_miragevpn.protocol.login import Login
from qubes_miragevpn.protocol.pushes import Pushes
from qubes_miragevpn.protocol.ration import Pace, Ration
from qubes_miragevpn.protocol.remotes import Try
from qubes_miragevpn.protocol.session import Session
from qubes_miragevpn.protocol.terms import Terms, between_two, by_push
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

PATIENCE = Pace(20, 60.0)
"""Of messages that the user sees, or that set a timer: a server could fill logs, and a screen with questions."""
_NO_VERDICT = " (the server said nothing to our certificate: it may not accept it)"


class Conversation(Exchange):
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
        super().__init__(session, link, endpoint, insists=config.auth_retry != "none")
        self.step = step
        self._config = config
        self._floats = config.common.floats
        self._login = login
        self._number = number  # of the next question
        self._waiting = Waiting(config.common.timers, now)
        self._farewell: Farewell | None = None  # while we leave
        self._question: int | None = None  # the server's, which waits for its answer
        self._key_id: int | None = None  # newest established key
        self._server_options = ""
        self._pushes = Pushes()
        self._patience = Ration(PATIENCE)
        self._renewals = Ration(PATIENCE)  # of which the log tells
        self._tunnel = tunnel
        self._working: Working | None = None

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
        self._waiting.heard = True

    def renegotiate(self, now: float) -> None:
        """Begin a renegotiation."""
        self._guarded(lambda: self._session.renegotiate(now), now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._waiting.require_answer(now)
        if self._working is None:
            self._waiting.require_settings(now, handshaken=self._key_id is not None, suspicion=self.suspicion)
        if self._farewell is not None:
            self._say_again(self._farewell, now)
            return
        if self._working is not None:
            if self._working.lifetime.over(now):
                self._end_for_good("the session has lasted as long as it may (session-timeout)", now)
            if self._working.lifetime.look(now):
                self.effects.append(CountTraffic(PEER))
        self._guarded(lambda: self._tick_session(now), now)

    def _tick_session(self, now: float) -> None:
        self._session.tick(now)
        if self._key_id is not None and self._working is None and self._waiting.must_ask(now):
            self._ask_for_settings(now)

    def _ask_for_settings(self, now: float) -> None:
        """At once and then often: a server that pushes unasked takes no notice, the others wait for it."""
        self._waiting.asked(now)
        self._session.send_message("PUSH_REQUEST", now)

    @property
    def suspicion(self) -> str:
        """What silence, or the end of the connection, may mean at this point, or ""."""
        return _NO_VERDICT if self._session.judged else ""

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        if self._farewell is not None:
            return self._farewell.at
        times = [self._session.next_deadline()]
        if self._working is not None:
            times.append(self._working.lifetime.deadline)
        times += self._waiting.deadlines(works=self._working is not None, handshaken=self._key_id is not None)
        return min((t for t in times if t is not None), default=None)

    def counted(self, carried: int, now: float) -> None:
        """Take the count of what the tunnel has carried so far."""
        if self._working is not None and self._working.lifetime.too_idle(carried, now):
            self._end_for_good("next to nothing was carried for too long (inactive)", now)

    def _end_for_good(self, reason: str, now: float) -> None:
        self._say_goodbye(now)
        raise Over(End.FORBIDDEN, reason)

    def plane_event(self, event: PeerEvent, now: float) -> None:
        """Take an event of the data plane, which only knows of us once the tunnel works."""
        working = self._working
        if working is None or self._farewell is not None:
            return
        match event:
            case KeyExhausted(_, key_id):
                if working.has(key_id):
                    self.renegotiate(now)
            case KeyInUse(_, key_id):
                self._guarded(lambda: self._session.key_in_use(key_id), now)
            case PeerSilent():
                if working.terms.ping_exits(self._config):
                    raise Over(End.FORBIDDEN, "the server fell silent (ping-exit)")
                raise Over(End.LOST, "the server fell silent (ping-restart)")
            case PeerExited():
                raise Over(End.LOST, "the server left")
            case Floated(_, endpoint):
                self._endpoint = endpoint
            case OccMessage(_, message, size):
                self.effects += working.asked(message, size, now)
            case CompressedDropped(_, reason):
                self._say(Level.WARNING, f"the server compresses; such packets are dropped: {reason}")

    def leave(self, now: float) -> None:
        """Tell the server that we leave; raises `Over` when that is done, at once or with `tick`."""
        lost_easily = self._say_goodbye(now)
        pushed = None if self._working is None else self._working.terms.pulled.explicit_exit_notify
        times = self._config.common.explicit_exit_notify if pushed is None else pushed
        self._farewell, left_before = Farewell(times if lost_easily else 1, now), self._farewell
        if self._farewell.over or left_before is not None:
            raise Over(End.LEFT, "disconnected")

    @property
    def up_since(self) -> float | None:
        """When the tunnel began to work, if it does."""
        return None if self._working is None else self._working.since

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
        if self._working is None:
            return False
        if not self._working.terms.pulled.cc_exit:
            if self.step.remote.proto is not Proto.UDP or not self._working.has_keys:
                return False
            self.effects.append(SendInner(PEER, OCC_EXIT))
            return True
        with suppress(Over):  # the session is dead already, so there is nobody to tell
            self._guarded(lambda: self._session.send_message("EXIT", now), now)
        return False

    def close(self, reason: str) -> None:
        """Undo everything that was asked for."""
        if self._working is not None:
            self.effects += [TunnelDown(reason), RemovePeer(PEER)]
        self.effects.append(CloseTransport(self.link))

    # --- what the session did

    def _happened(self, happening: Happening, now: float) -> None:
        match happening:
            case KeyMaterialReady(key_id, options, peer_info):
                if self._working is None:
                    self._key_id, self._server_options = key_id, options
                    self._say(Level.INFO, f"authenticated the server ({self._session.tls_of(key_id).describe()})")
                    if self._tunnel is None:
                        self._ask_for_settings(now)
                    else:
                        self._agree(self._tunnel, key_id, peer_info, now)
                else:
                    if self._renewals.take(now):
                        self._say(Level.INFO, f"renegotiated (key id {key_id})")
                    self.effects.append(self._working.install(key_id))
            case UseKey(key_id):
                self.effects += [] if self._working is None else self._working.activate(key_id)
            case DropKey(key_id):
                self.effects += [] if self._working is None else self._working.retire(key_id)
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
            isinstance(message, PushReply) and self._working is not None
        )
        if rationed and not self._patience.take(now):
            self.effects.append(Drop(f"more than {PATIENCE.most} messages for the user in {PATIENCE.period:g} s"))
            return
        match message:
            case PushReply() | PushUpdate() if self._tunnel is not None:
                self.effects.append(Drop("a push from somebody who was not asked for it"))
            case PushReply(options, more):
                if self._working is None and self._key_id is not None:
                    self._pushed(options, more, now)
                else:
                    self._renew_token(options)
            case PushUpdate(options, more):
                if self._working is None:
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
        if self._working is None:
            left = self._waiting.extend(timeout, now)
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
        working = self._working = Working(self._config, self._session, terms, self.step.remote, self._endpoint, now)
        self.effects += working.notes(self._server_options, pushed=self._tunnel is None)
        self.effects += [working.joined(self.link, self._endpoint), working.install(self._key_id)]
        self._take_token(pulled)
        if pulled.reneg_sec is not None:
            self._session.renew_after(pulled.reneg_sec)
        if pulled.dynamic_tls_crypt:
            self._session.protect_renegotiations()
        self._session.use_first_key()
        self._collect(now)
        derivation = "exporter" if pulled.key_derivation_ekm else "PRF"
        tls = self._session.tls_of(self._key_id).describe()
        self.effects.append(TunnelUp(pulled.tunnel, f"{tls}, data {terms.cipher}, keys by {derivation}"))

    def _update(self, options: tuple[str, ...], more: bool, now: float) -> None:
        """The server changes what it pushed: the working tunnel gets the new settings, or (`PeerError`) ends."""
        updated = self._pushes.update(options, now, more=more)
        if updated is not None and self._working is not None:
            self.effects += self._working.update(updated, self.step.address)
