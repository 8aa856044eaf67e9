# SPDX-License-Identifier: BSD-2-Clause
"""The client role: from the user's wish to a working tunnel, and back to it after every loss.

Driven by the user (`UserCommand`, `CredentialsGiven`), the network (packets, transports, names) and time. It holds
one *attempt* at a time: a remote being resolved, a transport being opened, or a session on it. Whatever ends an attempt
ends everything it pulled; the next one begins from the operator's configuration alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import ClientConfig, Credentials, Family, Proto, PulledOptions
from qubes_miragevpn.config.pushed import parse_push
from qubes_miragevpn.dataplane.interface import (
    NO_PEER_ID,
    KeyExhausted,
    KeyInUse,
    Link,
    PeerExited,
    PeerLimits,
    PeerSilent,
    SockAddr,
)
from qubes_miragevpn.protocol.contract import (
    ActivateKey,
    AddPeer,
    AskCredentials,
    CloseTransport,
    Command,
    CredentialsGiven,
    CredentialsRefused,
    Drop,
    Effect,
    Event,
    InstallKey,
    Level,
    NameResolved,
    Notify,
    OpenTransport,
    PacketReceived,
    RemovePeer,
    ResolutionFailed,
    Resolve,
    RetireKey,
    SendInner,
    Stop,
    StopKind,
    TimerExpired,
    Transmit,
    TransportDown,
    TransportUp,
    TunnelDown,
    TunnelUp,
    UserCommand,
)
from qubes_miragevpn.protocol.control.legality import Role
from qubes_miragevpn.protocol.control.negotiation import client_cipher
from qubes_miragevpn.protocol.control.tls import TlsEndpoint, make_context
from qubes_miragevpn.protocol.limits import peer_limits
from qubes_miragevpn.protocol.remotes import GiveUp, Lookup, Pause, Remotes, Try
from qubes_miragevpn.protocol.session import (
    ClientIntroduced,
    DropKey,
    Happening,
    Introduction,
    KeyMaterialReady,
    MessageDropped,
    MessageReceived,
    Session,
    UseKey,
)
from qubes_miragevpn.protocol.version import IV_VER
from qubes_miragevpn.protocol.wire import occ, peerinfo
from qubes_miragevpn.protocol.wire.messages import (
    AuthFailed,
    Exit,
    Halt,
    Message,
    Other,
    PushReply,
    PushRequest,
    Restart,
)
from qubes_miragevpn.protocol.wire.packet import SID_SIZE
from qubes_miragevpn.protocol.wrap.keys import wrap_keys
from qubes_miragevpn.protocol.wrap.state import WrapState

PEER = 0
"""The data plane's handle of the one peer that a client has."""

PUSH_FIRST = 1.0  # seconds to wait for a server that pushes unasked
PUSH_AGAIN = 5.0  # seconds between PUSH_REQUESTs
MAX_PUSH_PARTS = 64  # PUSH_REPLYs that continue each other; at ~1 KB each no honest server comes near
MAX_PUSH_BYTES = 64 * 1024
LASTING = 30.0  # a connection that lived this long was a good one: the next walk begins without back-off


@dataclass(frozen=True)
class Idle:
    """Nothing is wanted."""


@dataclass(frozen=True)
class Asking:
    """User name and password are being asked for."""


@dataclass(frozen=True)
class Pausing:
    """Waiting before the next pass over the remotes."""

    until: float


@dataclass(frozen=True)
class Resolving:
    """The name of `step`'s remote is being looked up."""

    request: int
    step: Lookup


@dataclass(frozen=True)
class Opening:
    """A transport is being opened."""

    link: Link
    step: Try
    deadline: float


@dataclass
class Talking:
    """A session runs on an open transport; the tunnel works once `pulled` is there."""

    link: Link
    step: Try
    endpoint: SockAddr
    session: Session
    began: float
    heard: bool = False  # the server answered with something valid
    key_id: int | None = None  # first key, established
    server_options: str = ""
    parts: list[str] = field(default_factory=list)
    part_count: int = 0
    next_request: float = 0.0
    pulled: PulledOptions | None = None
    cipher: str = ""
    installed: set[int] = field(default_factory=set)
    up_since: float = 0.0
    ping_exits: bool = False


State = Idle | Asking | Pausing | Resolving | Opening | Talking


class Client:
    """The machine: see `protocol.contract` for how it is driven."""

    def __init__(
        self, config: ClientConfig, *, entropy: Callable[[int], bytes], unix_time: Callable[[], int]
    ) -> None:
        """`entropy(n)` gives n random bytes, `unix_time()` the wall clock; raises `ConfigError` for unusable keys."""
        common = config.common
        self._config = config
        self._entropy = entropy
        self._unix_time = unix_time
        self._context = make_context(common.identity, common.peer, common.tls, server=False)
        self._wrap_keys = wrap_keys(common.wrap, server=False)
        self._remotes = Remotes(config.remotes, common.timers, shuffle=config.remote_random, entropy=entropy)
        self._credentials = config.credentials
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
        except PeerError as error:
            self._peer_error(error, now)
        return self._out

    def next_deadline(self) -> float | None:
        """When `TimerExpired` is wanted."""
        match self._state:
            case Pausing(until):
                return until
            case Opening(_, _, deadline):
                return deadline
            case Talking() as talking:
                return self._talk_deadline(talking)
        return None

    def _dispatch(self, event: Event, now: float) -> None:
        match event:
            case UserCommand(command):
                self._command(command, now)
            case PacketReceived(link, _, packet):
                self._packet(link, packet, now)
            case TimerExpired():
                self._tick(now)
            case NameResolved(request, addresses):
                if isinstance(self._state, Resolving) and self._state.request == request:
                    self._remotes.resolved(self._state.step.remote, addresses)
                    self._next_step(now)
            case ResolutionFailed(request, reason):
                if isinstance(self._state, Resolving) and self._state.request == request:
                    host = printable(self._state.step.remote.host)
                    self._say(Level.WARNING, f"cannot resolve {host}: {printable(reason)}")
                    self._unreachable = True
                    self._next_step(now)
            case TransportUp(link, endpoint):
                self._transport_up(link, endpoint, now)
            case TransportDown(link, reason):
                if isinstance(self._state, Opening | Talking) and self._state.link == link:
                    self._lose(f"connection lost: {printable(reason)}", now)
            case CredentialsGiven(username, password):
                if isinstance(self._state, Asking):
                    self._credentials = Credentials(username, password)
                    self._next_step(now)
            case CredentialsRefused(reason):
                if isinstance(self._state, Asking):
                    self._stop(StopKind.CREDENTIALS, f"user name and password are needed: {printable(reason)}")
            case KeyExhausted() | KeyInUse() | PeerSilent() | PeerExited():
                self._plane_event(event, now)
            case other:
                assert_never(other)

    def _plane_event(self, event: KeyExhausted | KeyInUse | PeerSilent | PeerExited, now: float) -> None:
        talking = self._state
        if not isinstance(talking, Talking) or talking.pulled is None:
            return
        match event:
            case KeyExhausted(_, key_id):
                if key_id in talking.installed:
                    talking.session.renegotiate(now)
            case KeyInUse(_, key_id):
                talking.session.key_in_use(key_id)
            case PeerSilent():
                if talking.ping_exits:
                    self._stop(StopKind.CONNECTION, "the server fell silent (ping-exit)")
                else:
                    self._lose("the server fell silent (ping-restart)", now)
                return
            case PeerExited():
                self._lose("the server left", now)
                return
        self._collect(talking, now)

    def _command(self, command: Command, now: float) -> None:
        match command:
            case Command.CONNECT:
                if isinstance(self._state, Idle):
                    self._begin(now)
            case Command.RECONNECT:
                if isinstance(self._state, Idle | Pausing):
                    self._begin(now)
                elif isinstance(self._state, Opening | Talking):
                    self._remotes.again(self._state.step, lasted=True)
                    self._clear("reconnecting")
                    self._next_step(now)
            case Command.RENEGOTIATE:
                if isinstance(self._state, Talking):
                    self._state.session.renegotiate(now)
                    self._collect(self._state, now)
            case Command.DISCONNECT:
                self._say_goodbye(now)
                self._stop(StopKind.ASKED, "disconnected")

    # --- attempts

    def _begin(self, now: float) -> None:
        if self._config.auth_user_pass and self._credentials is None:
            self._ask("")
        else:
            self._next_step(now)

    def _ask(self, again: str) -> None:
        self._state = Asking()
        self._out.append(AskCredentials(again))

    def _next_step(self, now: float) -> None:
        step = self._remotes.next()
        match step:
            case Lookup(remote):
                self._numbers += 1
                self._state = Resolving(self._numbers, step)
                self._out.append(Resolve(self._numbers, remote.host, remote.family))
            case Try(remote, address):
                self._numbers += 1
                self._state = Opening(self._numbers, step, now + self._config.common.timers.connect_timeout)
                self._say(Level.INFO, f"connecting to {address} port {remote.port} ({remote.proto.value})")
                self._out.append(OpenTransport(self._numbers, remote.proto, address, remote.port))
            case Pause() | GiveUp() if self._refused and not self._unreachable:
                self._stop(StopKind.AUTH, self._refused)
            case Pause(seconds):
                self._refused, self._unreachable = "", False
                self._state = Pausing(now + seconds)
                self._say(Level.INFO, f"no remote worked; next try in {seconds:g} s")
            case GiveUp():
                self._stop(StopKind.CONNECTION, self._refused or "no remote could be reached (connect-retry-max)")

    def _transport_up(self, link: Link, endpoint: SockAddr, now: float) -> None:
        opening = self._state
        if not isinstance(opening, Opening) or opening.link != link:
            return
        config, remote = self._config, opening.step.remote
        options = occ.build(config.common, remote.proto, _family(endpoint), server=False)
        info = peerinfo.build(IV_VER, config.common.data_ciphers)
        session = Session(
            Role.CLIENT,
            config.common,
            own_sid=self._entropy(SID_SIZE),
            wrap=WrapState(self._wrap_keys, started=self._unix_time()),
            tls=lambda: TlsEndpoint(self._context, config.common.peer, server=False),
            entropy=self._entropy,
            introduction=lambda: self._introduce(options, info),
            stream=remote.proto is Proto.TCP,
        )
        talking = Talking(link, opening.step, endpoint, session, now)
        self._state = talking
        session.start(now)
        self._collect(talking, now)

    def _introduce(self, options: str, info: str) -> Introduction:
        credentials = self._credentials
        if not self._config.auth_user_pass or credentials is None:
            return Introduction(options, info, "", Secret(b""))
        return Introduction(options, info, credentials.username, credentials.password)

    def _clear(self, reason: str) -> None:
        """End the attempt: what it opened is closed, what it pulled is forgotten."""
        state = self._state
        self._state = Idle()
        if isinstance(state, Opening):
            self._out.append(CloseTransport(state.link))
        elif isinstance(state, Talking):
            if state.pulled is not None:
                self._out += [TunnelDown(reason), RemovePeer(PEER)]
            self._out.append(CloseTransport(state.link))

    def _lose(self, reason: str, now: float, *, refused: bool = False) -> None:
        """End the attempt and go on with the next. `refused`: the peer is not one we may talk to."""
        state = self._state
        if refused:
            self._refused = reason
        else:
            self._unreachable = True
        self._say(Level.WARNING, reason)
        self._clear(reason)
        if isinstance(state, Talking) and state.pulled is not None:
            self._remotes.again(state.step, lasted=now >= state.up_since + LASTING)
            if now < state.up_since + LASTING:  # a server that throws us out at once is not asked again at once
                self._state = Pausing(now + self._config.common.timers.connect_retry)
                return
        self._next_step(now)

    def _peer_error(self, error: PeerError, now: float) -> None:
        if error.consequence is Consequence.DROP:
            self._out.append(Drop(error.reason))
            return
        if isinstance(self._state, Talking):
            for packet in self._state.session.drain()[0]:  # the TLS alert that tells the peer why
                self._out.append(Transmit(self._state.link, self._state.endpoint, packet))
            self._lose(error.reason, now, refused=error.consequence is Consequence.FATAL)

    def _stop(self, kind: StopKind, reason: str) -> None:
        self._clear(reason)
        self._stopped = True
        self._out.append(Stop(kind, reason))

    def _say_goodbye(self, now: float) -> None:
        """Tell the server that we leave, in the way it understands."""
        talking = self._state
        if not isinstance(talking, Talking) or talking.pulled is None:
            return
        if talking.pulled.cc_exit:
            try:
                talking.session.send_message("EXIT", now)
                self._collect(talking, now)
            except PeerError:
                pass  # the session is dead already, so there is nobody to tell
        elif talking.step.remote.proto is Proto.UDP and talking.installed:
            self._out.append(SendInner(PEER, occ.OCC_EXIT))

    # --- a running session

    def _packet(self, link: Link, packet: bytes, now: float) -> None:
        talking = self._state
        if not isinstance(talking, Talking) or talking.link != link:
            return
        session = talking.session
        session.receive(session.open(packet), now)
        talking.heard = True
        self._collect(talking, now)

    def _tick(self, now: float) -> None:
        match self._state:
            case Pausing(until):
                if now >= until:
                    self._next_step(now)
            case Opening(_, _, deadline):
                if now >= deadline:
                    self._lose("the transport did not open in time", now)
            case Talking() as talking:
                self._tick_talking(talking, now)

    def _tick_talking(self, talking: Talking, now: float) -> None:
        timers = self._config.common.timers
        if not talking.heard and now >= talking.began + timers.connect_timeout:
            self._lose(f"no answer within {timers.connect_timeout:g} s {_NO_ANSWER}", now)
            return
        if talking.pulled is None and now >= talking.began + timers.hand_window:
            problem = "the server pushed no settings" if talking.key_id is not None else "no TLS handshake"
            hint = "" if talking.heard else f" {_NO_ANSWER}"
            self._lose(f"{problem} within {timers.hand_window:g} s{hint}", now)
            return
        talking.session.tick(now)
        if talking.key_id is not None and talking.pulled is None and now >= talking.next_request:
            talking.next_request = now + PUSH_AGAIN
            talking.session.send_message("PUSH_REQUEST", now)
        self._collect(talking, now)

    def _talk_deadline(self, talking: Talking) -> float | None:
        timers = self._config.common.timers
        times = [talking.session.next_deadline()]
        if not talking.heard:
            times.append(talking.began + timers.connect_timeout)
        if talking.pulled is None:
            times.append(talking.began + timers.hand_window)
            if talking.key_id is not None:
                times.append(talking.next_request)
        return min((t for t in times if t is not None), default=None)

    def _collect(self, talking: Talking, now: float) -> None:
        """Turn what the session did into effects, until it has nothing more to say."""
        while True:
            packets, happenings = talking.session.drain()
            self._out += [Transmit(talking.link, talking.endpoint, packet) for packet in packets]
            if not happenings:
                return
            for happening in happenings:
                self._happened(talking, happening, now)
                if self._state is not talking:
                    return

    def _happened(self, talking: Talking, happening: Happening, now: float) -> None:
        match happening:
            case KeyMaterialReady(key_id, options):
                if talking.pulled is None:
                    talking.key_id, talking.server_options = key_id, options
                    talking.next_request = now + PUSH_FIRST
                    self._say(Level.INFO, f"authenticated the server ({talking.session.tls_of(key_id).describe()})")
                else:
                    self._say(Level.INFO, f"renegotiated (key id {key_id})")
                    self._install(talking, key_id)
            case UseKey(key_id):
                if key_id in talking.installed:
                    self._out.append(ActivateKey(PEER, key_id))
            case DropKey(key_id):
                if key_id in talking.installed:
                    talking.installed.discard(key_id)
                    self._out.append(RetireKey(PEER, key_id))
            case MessageReceived(message):
                self._message(talking, message, now)
            case MessageDropped(reason):
                self._out.append(Drop(reason))
            case ClientIntroduced():
                raise PeerError("the server introduced itself as a client", Consequence.END_SESSION)
            case other:
                assert_never(other)

    def _message(self, talking: Talking, message: Message, now: float) -> None:
        match message:
            case PushReply(options, more):
                if talking.pulled is None and talking.key_id is not None:
                    self._pushed(talking, options, more, now)
            case AuthFailed(reason):
                self._auth_failed(reason, now)
            case Restart(reason):
                self._lose(f"the server asks for a new connection: {reason or 'no reason given'}", now)
            case Halt(reason):
                self._stop(StopKind.CONNECTION, f"the server forbids to connect again: {reason or 'no reason given'}")
            case Exit():
                self._lose("the server left", now)
            case PushRequest():
                self._out.append(Drop("PUSH_REQUEST from a server"))
            case Other(text):
                self._say(Level.INFO, f"the server says: {text}")
            case other:
                assert_never(other)

    def _auth_failed(self, reason: str, now: float) -> None:
        text = f"the server refused us: {reason}" if reason else "the server refused us (AUTH_FAILED)"
        if self._config.auth_user_pass and self._config.auth_retry == "interact":
            self._say(Level.ERROR, text)
            self._clear(text)
            self._credentials = None
            self._ask(text)
        elif self._config.auth_user_pass and self._config.auth_retry == "nointeract":
            self._lose(text, now)
        else:
            self._stop(StopKind.AUTH, text)

    # --- what the server pushed

    def _pushed(self, talking: Talking, options: tuple[str, ...], more: bool, now: float) -> None:
        talking.parts += options
        talking.part_count += 1
        if talking.part_count > MAX_PUSH_PARTS or sum(map(len, talking.parts)) > MAX_PUSH_BYTES:
            raise PeerError("the server pushes without end", Consequence.END_SESSION)
        if more:
            return
        pulled = parse_push(tuple(talking.parts), self._config, talking.step.address)
        talking.cipher = client_cipher(pulled.cipher, talking.server_options, self._config.common)
        talking.pulled = pulled
        talking.up_since = now
        for line in pulled.dropped:
            self._say(Level.WARNING, f"pushed option without effect: {line}")
        peer_id = NO_PEER_ID if pulled.peer_id is None else pulled.peer_id
        self._out.append(AddPeer(PEER, talking.link, talking.endpoint, peer_id, self._limits(talking, pulled)))
        assert talking.key_id is not None
        self._install(talking, talking.key_id)
        talking.session.use_first_key()
        self._collect(talking, now)
        derivation = "exporter" if pulled.key_derivation_ekm else "PRF"
        tls = talking.session.tls_of(talking.key_id).describe()
        self._out.append(TunnelUp(pulled.tunnel, f"{tls}, data {talking.cipher}, keys by {derivation}"))

    def _install(self, talking: Talking, key_id: int) -> None:
        assert talking.pulled is not None
        keys = talking.session.derive(key_id, talking.cipher, ekm=talking.pulled.key_derivation_ekm)
        talking.installed.add(key_id)
        self._out.append(InstallKey(PEER, key_id, keys))

    def _limits(self, talking: Talking, pulled: PulledOptions) -> PeerLimits:
        """Keep-alive by what was pushed, else by the profile; an exit timeout outranks a restart timeout."""
        common = self._config.common
        timers = common.timers
        ping = timers.ping if pulled.ping is None else pulled.ping
        exit_after = timers.ping_exit if pulled.ping_exit is None else pulled.ping_exit
        restart_after = timers.ping_restart if pulled.ping_restart is None else pulled.ping_restart
        talking.ping_exits = bool(exit_after)
        silence = exit_after or restart_after
        return peer_limits(common, talking.step.remote.proto, talking.endpoint, ping=ping, silence=silence)

    def _say(self, level: Level, text: str) -> None:
        self._out.append(Notify(level, text))


_NO_ANSWER = "(server unreachable, or its tls-auth or tls-crypt key is another)"


def _family(endpoint: SockAddr) -> Family:
    return Family.IPV6 if len(endpoint) == 4 else Family.IPV4
