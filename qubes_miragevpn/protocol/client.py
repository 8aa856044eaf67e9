# SPDX-License-Identifier: BSD-2-Clause
"""The client role: from the user's wish to a working tunnel, and back to it after every loss.

Driven by the user (`UserCommand`, `CredentialsGiven`), the network (packets, transports, names) and time. It holds
one *attempt* at a time: a remote being resolved, a transport being opened, or a `Conversation` on it. Whatever ends an
attempt ends everything it pulled; the next one begins from the operator's configuration alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import ClientConfig, Credentials
from qubes_miragevpn.crypto.replay import Numbering
from qubes_miragevpn.dataplane.interface import Link, SockAddr
from qubes_miragevpn.protocol.attempts import Idle, Opening, Pausing, Resolving, name_to_look_up, opening
from qubes_miragevpn.protocol.connecting.beginning import Beginning, Machine
from qubes_miragevpn.protocol.connecting.proxylogins import ProxyLogins, describe
from qubes_miragevpn.protocol.contract import (
    AskChallenge,
    AskCredentials,
    ChallengeAnswered,
    ChallengeRefused,
    ChangeSettings,
    ClientKeyJudged,
    CloseTransport,
    Command,
    CredentialsGiven,
    CredentialsRefused,
    DismissPeer,
    Drop,
    Effect,
    Event,
    Level,
    LoginJudged,
    LoginPending,
    NameResolved,
    Notify,
    PacketReceived,
    Reconfigured,
    ResolutionFailed,
    Resolve,
    Stop,
    StopKind,
    TimerExpired,
    TrafficCounted,
    TransportDown,
    TransportUp,
    UserCommand,
)
from qubes_miragevpn.protocol.conversation import Conversation
from qubes_miragevpn.protocol.ends import End, Over
from qubes_miragevpn.protocol.login import Login, PasswordWanted, Used
from qubes_miragevpn.protocol.remotes import GiveUp, Lookup, Pause, Remotes, Try, Wait
from qubes_miragevpn.protocol.wire.authfailed import Challenge, NotNow, Question

LASTING = 30.0  # a connection that lived this long was a good one: the next walk begins without back-off


@dataclass(frozen=True)
class Asking:
    """The user is being asked: question number `request`, or (None) for user name and password.

    `step`: those are for its proxy, and not for the server.
    """

    request: int | None
    step: Try | None = None


State = Idle | Asking | Pausing | Resolving | Opening | Conversation


class Client:
    """The machine: see `protocol.contract` for how it is driven."""

    def __init__(
        self,
        config: ClientConfig,
        *,
        entropy: Callable[[int], bytes],
        unix_time: Callable[[], int],
        machine: Machine = tuple,
        tunnel: tuple[str, ...] | None = None,
        seen: Numbering | None = None,
    ) -> None:
        """`entropy(n)` gives n random bytes, `unix_time()` the wall clock; raises `ConfigError` for unusable keys.

        `machine()` gives the peer info about this machine; it is asked only where the profile says ``push-peer-info``.
        `tunnel`: what a server would push, where the other end is an equal (`PointClient`). `seen`: the control packets
        of earlier sessions, whose like are refused, and which is kept up to date; None: each session begins without.
        """
        if config.credentials is not None and (unfit := Login(config).given(config.credentials)):
            raise ConfigError(f"auth-user-pass: {unfit}")
        self._config = config
        self._tunnel = tunnel
        self._entropy = entropy
        self._remotes = Remotes(config.remotes, config.common.timers, shuffle=config.remote_random, entropy=entropy)
        self._login = Login(config)
        self._proxies = ProxyLogins(config)
        self._beginning = Beginning(
            config,
            self._login,
            entropy=entropy,
            unix_time=unix_time,
            machine=machine,
            seen=seen,
            warn=lambda text: self._say(Level.WARNING, text),
            pulls=tunnel is None,
        )
        self._state: State = Idle()
        self._stopped = False
        self._numbers = 0
        self._refused = ""  # why a server was refused in this pass over the remotes
        self._unreachable = False  # some attempt of this pass failed for a lesser reason
        self._out: list[Effect] = []

    # --- the contract

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event and return what is to be done."""
        if self._stopped:
            return []
        self._out = []
        try:
            self._dispatch(event, now)
        except Over as over:
            self._over(over, now)
        if isinstance(self._state, Conversation):
            self._take_effects(self._state)
        return self._out

    def next_deadline(self) -> float | None:
        """When `TimerExpired` is wanted."""
        match self._state:
            case Pausing(until):
                return until
            case Opening(_, _, deadline):
                return deadline
            case Conversation() as conversation:
                return conversation.next_deadline()
        return None

    def _dispatch(self, event: Event, now: float) -> None:
        match event:
            case UserCommand(command):
                self._command(command, now)
            case PacketReceived(link, endpoint, packet):
                if isinstance(self._state, Conversation) and self._state.is_from_server(link, endpoint):
                    self._state.packet(packet, now)
            case TimerExpired():
                self._tick(now)
            case TrafficCounted(_, carried):
                if isinstance(self._state, Conversation):
                    self._state.counted(carried, now)
            case NameResolved(request, addresses):
                if isinstance(self._state, Resolving) and self._state.request == request:
                    self._remotes.resolved(self._state.step.remote, addresses)
                    self._next_step(now)
            case ResolutionFailed(request, reason):
                if isinstance(self._state, Resolving) and self._state.request == request:
                    host = printable(self._state.step.remote.hop[0])
                    known = self._remotes.unresolved(self._state.step.remote)
                    then = "; trying where it was last time" if known else ""
                    self._say(Level.WARNING, f"cannot resolve {host}: {printable(reason)}{then}")
                    self._unreachable = True
                    self._next_step(now)
            case TransportUp(link, endpoint):
                self._transport_up(link, endpoint, now)
            case TransportDown(link, reason, login):
                if isinstance(self._state, Opening | Conversation) and self._state.link == link:
                    self._transport_down(self._state, printable(reason), login, now)
            case CredentialsGiven(username, password):
                if isinstance(self._state, Asking) and self._state.request is None:
                    self._given(Credentials(username, password), self._state.step, now)
            case CredentialsRefused(reason):
                if isinstance(self._state, Asking) and self._state.request is None:
                    step = self._state.step
                    whose = "" if step is None else f" for {describe(step.remote)}"
                    self._stop(StopKind.CREDENTIALS, f"user name and password are needed{whose}: {printable(reason)}")
            case ChallengeAnswered(request, answer):
                self._answered(request, answer, now)
            case ChallengeRefused(request, reason):
                if self._is_asked(request):
                    self._stop(StopKind.CREDENTIALS, f"a question of the login has no answer: {printable(reason)}")
            case ClientKeyJudged() | DismissPeer() | LoginJudged() | LoginPending() | Reconfigured() | ChangeSettings():
                self._out.append(Drop(f"{type(event).__name__} does not concern a client"))
            case _:  # what concerns the peer in the data plane
                if isinstance(self._state, Conversation):
                    self._state.plane_event(event, now)

    def _command(self, command: Command, now: float) -> None:
        if isinstance(self._state, Conversation) and self._state.leaving and command is not Command.DISCONNECT:
            return
        match command:
            case Command.CONNECT:
                if isinstance(self._state, Idle):
                    self._connect(now)
            case Command.RECONNECT:
                if isinstance(self._state, Idle | Pausing):
                    self._remotes.refresh()
                    self._connect(now)
                elif isinstance(self._state, Resolving):  # the question may have gone out by an uplink that is no more
                    self._look_up(self._state.step)
                elif isinstance(self._state, Opening | Conversation):
                    self._remotes.again(self._state.step, lasted=True)
                    self._clear("reconnecting")
                    self._connect(now)
            case Command.RENEGOTIATE:
                if isinstance(self._state, Conversation):
                    self._state.renegotiate(now)
            case Command.DISCONNECT:
                if isinstance(self._state, Conversation):
                    self._state.leave(now)
                else:
                    self._stop(StopKind.ASKED, "disconnected")

    # --- attempts

    def _connect(self, now: float, again: str = "") -> None:
        """Ask the user what must be asked, then take the next step; `again` is what was wrong with the last answer."""
        match self._login.question():
            case None:
                self._next_step(now)
            case PasswordWanted():
                self._state = Asking(None)
                self._out.append(AskCredentials(again))
            case Question(text, wanted, echo):
                number = self._number()
                self._state = Asking(number)
                self._out.append(AskChallenge(number, f"{again}: {text}" if again else text, echo, wanted))

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _is_asked(self, request: int) -> bool:
        """Whether the question of this number still waits for its answer."""
        match self._state:
            case Asking(number):
                return number == request
            case Conversation() as conversation:
                return conversation.asks(request)
        return False

    def _answered(self, request: int, answer: Secret, now: float) -> None:
        if not self._is_asked(request):
            return
        if isinstance(self._state, Conversation):
            self._state.answer(request, answer, now)
        else:
            self._connect(now, self._login.answered(answer))

    def _next_step(self, now: float) -> None:
        step = self._remotes.next()
        match step:
            case Lookup():
                self._look_up(step)
            case Try():
                self._open(step, now)
            case Wait(seconds):
                self._state = Pausing(now + seconds)
            case Pause() | GiveUp() if self._refused and not self._unreachable:
                self._stop(StopKind.AUTH, self._refused)
            case Pause(seconds):
                self._refused, self._unreachable = "", False
                self._state = Pausing(now + seconds)
                self._say(Level.INFO, f"no remote worked; next try in {seconds:g} s")
            case GiveUp():
                self._stop(StopKind.CONNECTION, self._refused or "no remote could be reached (connect-retry-max)")

    def _open(self, step: Try, now: float) -> None:
        if self._proxies.wanted(step.remote):
            self._ask_for_proxy(step)
            return
        self._numbers += 1
        common = self._config.at(step.remote).common
        self._state = Opening(self._numbers, step, now + common.timers.connect_timeout)
        shown = replace(step, remote=self._proxies.show(step.remote))
        self._out += opening(self._numbers, shown, floats=common.floats)

    def _ask_for_proxy(self, step: Try, again: str = "") -> None:
        self._state = Asking(None, step)
        self._out.append(AskCredentials(again, describe(step.remote)))

    def _given(self, credentials: Credentials, step: Try | None, now: float) -> None:
        if step is None:
            self._connect(now, self._login.given(credentials))
        elif unfit := self._proxies.given(step.remote, credentials):
            self._ask_for_proxy(step, unfit)
        else:
            self._open(step, now)

    def _transport_down(self, state: Opening | Conversation, reason: str, login: bool, now: float) -> None:
        if isinstance(state, Conversation):
            self._lose(f"connection lost: {reason}{state.suspicion}", now)
        elif not login or state.step.remote.proxy is None or not state.step.remote.proxy.asks:
            self._lose(f"connection lost: {reason}", now)
        elif self._proxies.refused(state.step.remote):
            self._clear(reason)
            self._ask_for_proxy(state.step, reason)
        else:
            self._stop(StopKind.CREDENTIALS, reason)

    def _look_up(self, step: Lookup) -> None:
        _, _, family = step.remote.hop
        self._numbers += 1
        self._state = Resolving(self._numbers, step)
        self._out.append(Resolve(self._numbers, name_to_look_up(step.remote, self._config, self._entropy), family))

    def _transport_up(self, link: Link, endpoint: SockAddr, now: float) -> None:
        state = self._state
        if not isinstance(state, Opening) or state.link != link:
            return
        config = self._config.at(state.step.remote)
        session = self._beginning.session(state.step, endpoint)
        conversation = Conversation(
            config, session, self._login, self._number, link, endpoint, state.step, now, self._tunnel
        )
        self._state = conversation
        conversation.start(now)

    # --- ends

    def _tick(self, now: float) -> None:
        match self._state:
            case Pausing(until):
                if now >= until:
                    self._connect(now)
            case Opening(_, _, deadline):
                if now >= deadline:
                    self._lose("the transport did not open in time", now)
            case Conversation() as conversation:
                conversation.tick(now)

    def _over(self, over: Over, now: float) -> None:
        """A conversation ended: go on as its end demands."""
        match over.end:
            case End.LOST:
                if not over.keep:
                    self._login.drop_token()
                self._lose(over.reason, now, elsewhere=over.elsewhere)
            case End.REFUSED:
                self._lose(over.reason, now, refused=True)
            case End.LEFT:
                self._stop(StopKind.ASKED, over.reason)
            case End.FORBIDDEN:
                self._stop(StopKind.CONNECTION, over.reason)
            case End.UNAUTHORISED:
                self._unauthorised(over, now)
            case other:
                assert_never(other)

    def _unauthorised(self, over: Over, now: float) -> None:
        """The login failed: wait, answer, try with the password instead of the token, or give up."""
        state, reason, used = self._state, over.reason, self._login.used
        assert isinstance(state, Conversation)
        retry = self._config.auth_retry if self._config.auth_user_pass else "none"
        match over.failure:
            case NotNow(_, backoff, advance):
                self._say(Level.WARNING, reason)
                self._clear(reason)
                pause = self._remotes.later(state.step, backoff, advance)
                self._say(Level.INFO, f"next try in {pause:g} s")
                self._state = Pausing(now + pause)
            case Challenge() as challenge:
                self._login.challenged(challenge)
                self._once_more(state, reason, now, Level.INFO)
            case _ if used is Used.TOKEN:
                self._login.drop_token()
                self._once_more(state, f"{reason}; trying the password instead of the token", now, Level.WARNING)
            case _ if retry == "interact":
                self._login.drop_password()
                self._once_more(state, reason, now, Level.ERROR)
            case _ if retry == "nointeract":
                self._lose(reason, now)
            case _:
                self._stop(StopKind.AUTH, reason)

    def _once_more(self, state: Conversation, reason: str, now: float, level: Level) -> None:
        """Log in again to the server that asks for it, after asking the user what that takes."""
        self._say(level, reason)
        self._clear(reason)
        self._remotes.same(state.step)
        self._connect(now, reason)

    def _lose(self, reason: str, now: float, *, refused: bool = False, elsewhere: bool = False) -> None:
        """End the attempt and go on with the next. `refused`: the peer is not one we may talk to."""
        state = self._state
        if isinstance(state, Conversation) and state.leaving:
            self._stop(StopKind.ASKED, "disconnected")
            return
        if refused:
            self._refused = reason
        else:
            self._unreachable = True
        self._say(Level.WARNING, reason)
        self._clear(reason)
        if isinstance(state, Conversation) and state.up_since is not None:
            pause = self._remotes.again(state.step, lasted=now >= state.up_since + LASTING, elsewhere=elsewhere)
            if pause:  # a server that throws us out at once is not asked again at once
                self._state = Pausing(now + pause)
                return
        self._connect(now)

    def _clear(self, reason: str) -> None:
        """End the attempt: what it opened is closed, what it pulled is forgotten."""
        state = self._state
        self._state = Idle()
        if isinstance(state, Opening):
            self._out.append(CloseTransport(state.link))
        elif isinstance(state, Conversation):
            if state.up_since is not None:
                self._remotes.worked(state.step)
            state.close(reason)
            self._take_effects(state)
            self._login.connection_ended()

    def _take_effects(self, conversation: Conversation) -> None:
        self._out += conversation.effects
        conversation.effects = []

    def _stop(self, kind: StopKind, reason: str) -> None:
        self._clear(reason)
        self._stopped = True
        self._out.append(Stop(kind, reason))

    def _say(self, level: Level, text: str) -> None:
        self._out.append(Notify(level, text))
