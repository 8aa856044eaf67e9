# SPDX-License-Identifier: BSD-2-Clause
"""The static key role: no handshake, one key for good, a tunnel as soon as a transport is open.

Driven by the user, the network (transports, names, the data plane's events) and time. There is no control channel, so
packets have no opcode, and whatever comes on the link is the data plane's. Whether anybody is at the other end shows in
its packets alone: ``ping-restart`` tries the next remote, ``ping-exit`` ends. OpenVPN's manual, "Static key mode".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Family, Proto, SizeOf, StaticConfig, TunnelSettings
from qubes_miragevpn.config.pushed import parse_push
from qubes_miragevpn.crypto.digests import digest_size
from qubes_miragevpn.crypto.replay import Numbering
from qubes_miragevpn.crypto.statickey import KeyHalf, split_key2
from qubes_miragevpn.crypto.suites import SUITES
from qubes_miragevpn.dataplane.inband import OCC_EXIT
from qubes_miragevpn.dataplane.interface import (
    NO_PEER_ID,
    DataKeys,
    DirectionKeys,
    Floated,
    KeyExhausted,
    Link,
    OccMessage,
    PeerExited,
    PeerLimits,
    PeerSilent,
    SockAddr,
)
from qubes_miragevpn.protocol.attempts import Idle, Opening, Pausing, Resolving, opening
from qubes_miragevpn.protocol.contract import (
    NOWHERE,
    ActivateKey,
    AddPeer,
    AwaitTransport,
    CloseTransport,
    Command,
    CountTraffic,
    Effect,
    Event,
    InstallKey,
    Level,
    NameResolved,
    Notify,
    RemovePeer,
    ResolutionFailed,
    Resolve,
    SendInner,
    Stop,
    StopKind,
    TimerExpired,
    TrafficCounted,
    TransportDown,
    TransportUp,
    TunnelDown,
    TunnelUp,
    UserCommand,
)
from qubes_miragevpn.protocol.inquiry import Inquiries, options_in
from qubes_miragevpn.protocol.leaving import Farewell, Lifetime
from qubes_miragevpn.protocol.limits import carrier_of, peer_limits, within_proxy
from qubes_miragevpn.protocol.remotes import GiveUp, Lookup, Pause, Remotes, Try, Wait
from qubes_miragevpn.protocol.wire import occ

PEER = 1
KEY_ID = 0
MORE_THAN_V1 = 3  # bytes: a time beside the packet id (4), but no opcode (1)


@dataclass(frozen=True)
class Waiting:
    """The other end is to come to us; on UDP it is `known` already to the data plane, but not where it is."""

    link: Link
    known: bool = False


@dataclass(frozen=True)
class Working:
    """The tunnel is up, for all that we know; with a `farewell` we are leaving it."""

    link: Link
    step: Try | None  # None: the other end came to us
    lifetime: Lifetime
    inquiries: Inquiries
    expected: str  # the other end's options string, as it should be
    farewell: Farewell | None = None


State = Idle | Pausing | Resolving | Opening | Waiting | Working


class StaticKeyPeer:
    """The machine: see `protocol.contract` for how it is driven."""

    def __init__(
        self,
        config: StaticConfig,
        *,
        entropy: Callable[[int], bytes],
        unix_time: Callable[[], int],
        seen: Numbering | None = None,
    ) -> None:
        """`seen` is what was seen of the other end before, and is kept up to date; None: nothing."""
        client = config.client
        self._config = config
        self._common = client.common
        self._unix_time = unix_time
        self._remotes = Remotes(client.remotes, client.common.timers, shuffle=client.remote_random, entropy=entropy)
        self._state: State = Idle()
        self._stopped = False
        self._numbers = 0
        self._seen = Numbering() if seen is None else seen
        self._since = 0  # the time of the newest numbering of our packets
        self._out: list[Effect] = []

    # --- the contract

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event and return what is to be done."""
        if self._stopped:
            return []
        self._out = []
        self._dispatch(event, now)
        return self._out

    def next_deadline(self) -> float | None:
        """When `TimerExpired` is wanted."""
        match self._state:
            case Pausing(until):
                return until
            case Opening(_, _, deadline):
                return deadline
            case Working(_, _, lifetime, inquiries, _, farewell):
                if farewell is not None:
                    return farewell.at
                times = (lifetime.deadline, inquiries.deadline)
                return min((at for at in times if at is not None), default=None)
        return None

    def _dispatch(self, event: Event, now: float) -> None:
        state = self._state
        match event:
            case UserCommand(command):
                self._command(command, now)
            case TimerExpired():
                self._tick(now)
            case NameResolved(request, addresses) if isinstance(state, Resolving) and state.request == request:
                self._remotes.resolved(state.step.remote, addresses)
                self._next_step(now)
            case ResolutionFailed(request, reason) if isinstance(state, Resolving) and state.request == request:
                host = printable(state.step.remote.hop[0])
                self._remotes.unresolved(state.step.remote)
                self._say(Level.WARNING, f"cannot resolve {host}: {printable(reason)}")
                self._next_step(now)
            case TransportUp(link, endpoint) if isinstance(state, Opening) and state.link == link:
                self._up(link, state.step, endpoint, now)
            case TransportUp(link, endpoint) if state == Waiting(link):
                if endpoint == NOWHERE:
                    self._state = Waiting(link, known=True)
                    self._add_peer(link, None, endpoint)
                    self._say(Level.INFO, "waiting for the other end")
                else:
                    self._up(link, None, endpoint, now)
            case Floated(_, endpoint) if isinstance(state, Waiting):
                self._out.append(RemovePeer(PEER))  # for what is known of one that is nowhere does not fit
                self._up(state.link, None, endpoint, now)
            case TransportDown(link, reason) if isinstance(state, Opening | Waiting | Working) and state.link == link:
                self._lose(f"connection lost: {printable(reason)}", now)
            case TrafficCounted(_, carried) if isinstance(state, Working):
                if state.lifetime.too_idle(carried, now):
                    self._say_goodbye()
                    self._stop(StopKind.CONNECTION, "next to nothing was carried for too long (inactive)")
            case OccMessage(_, message, size) if isinstance(state, Working):
                self._occ(state, message, size, now)
            case PeerSilent() if isinstance(state, Working):
                if self._common.timers.ping_exit:
                    self._stop(StopKind.CONNECTION, "the other end fell silent (ping-exit)")
                else:
                    self._lose("the other end fell silent (ping-restart)", now)
            case PeerExited() if isinstance(state, Working):
                self._lose("the other end left", now)
            case KeyExhausted() if isinstance(state, Working):
                # Numbers begin anew with a newer time, and with them everything that counts.
                self._lose("the packet ids of this start are used up", now)
            case _:
                return  # late answers, and what only other roles know

    def _command(self, command: Command, now: float) -> None:
        state = self._state
        leaving = isinstance(state, Working) and state.farewell is not None
        match command:
            case Command.CONNECT | Command.RECONNECT if isinstance(state, Idle | Pausing):
                self._next_step(now)
            case Command.RECONNECT if isinstance(state, Waiting) and not state.known:
                return  # whoever listens has nothing to begin anew
            case Command.RECONNECT if isinstance(state, Waiting):
                self._clear("reconnecting")
                self._next_step(now)
            case Command.RECONNECT if isinstance(state, Opening | Working) and not leaving:
                if state.step is not None:
                    self._remotes.again(state.step, lasted=True)
                self._clear("reconnecting")
                self._next_step(now)
            case Command.DISCONNECT:
                if isinstance(state, Working) and not leaving and self._say_goodbye():
                    farewell = Farewell(self._common.explicit_exit_notify, now)
                    if not farewell.over:
                        self._state = replace(state, farewell=farewell)
                        return
                self._stop(StopKind.ASKED, "disconnected")

    def _say_goodbye(self) -> bool:
        """Tell the other end that we leave, if that is wanted; False if it is not."""
        if self._common.explicit_exit_notify:
            self._out.append(SendInner(PEER, OCC_EXIT))
        return bool(self._common.explicit_exit_notify)

    # --- attempts

    def _next_step(self, now: float) -> None:
        if (listen := self._config.listen) is not None:
            self._numbers += 1
            self._state = Waiting(self._numbers)
            self._out.append(AwaitTransport(self._numbers, listen, self._config.only))
            return
        step = self._remotes.next()
        match step:
            case Lookup(remote):
                self._numbers += 1
                self._state = Resolving(self._numbers, step)
                self._out.append(Resolve(self._numbers, remote.hop[0], remote.hop[2]))
            case Try():
                self._numbers += 1
                self._state = Opening(self._numbers, step, now + self._common.timers.connect_timeout)
                self._out += opening(self._numbers, step, floats=self._common.floats)
            case Wait(seconds):
                self._state = Pausing(now + seconds)
            case Pause(seconds):
                self._state = Pausing(now + seconds)
                self._say(Level.INFO, f"next try in {seconds:g} s")
            case GiveUp():
                self._stop(StopKind.CONNECTION, "no remote could be reached (connect-retry-max)")

    def _add_peer(self, link: Link, step: Try | None, endpoint: SockAddr) -> None:
        self._out += [
            AddPeer(PEER, link, endpoint, NO_PEER_ID, self._limits(step, endpoint)),
            InstallKey(PEER, KEY_ID, self._keys()),
        ]

    @property
    def _proto(self) -> Proto:
        """The transport, if we wait for the other end."""
        return Proto.UDP if self._config.listen is None else self._config.listen.proto

    def _up(self, link: Link, step: Try | None, endpoint: SockAddr, now: float) -> None:
        """The other end is at `endpoint`."""
        try:
            settings = parse_push(self._config.tunnel, self._config.client, _address(endpoint))
        except PeerError as error:
            self._stop(StopKind.CONNECTION, f"this configuration makes no tunnel: {error.reason}")
            return
        for line in settings.dropped:
            self._say(Level.WARNING, f"not used: {line}")
        timers, longest = self._common.timers, self._config.client.session_timeout
        lifetime = Lifetime(now, longest, timers.inactive, timers.inactive_bytes)
        inquiries, expected = self._inquiries(step, endpoint, settings.tunnel)
        if not self._common.disable_occ:
            inquiries.begin(now)
        self._state = Working(link, step, lifetime, inquiries, expected)
        self._add_peer(link, step, endpoint)
        self._out += [
            ActivateKey(PEER, KEY_ID),
            TunnelUp(settings.tunnel, f"static key, data {self._config.cipher} with {self._common.digest}"),
        ]

    def _inquiries(self, step: Try | None, endpoint: SockAddr, tunnel: TunnelSettings) -> tuple[Inquiries, str]:
        """What we say about our settings, and what the other end should say about its."""
        config, common = self._config, self._common
        proto = self._proto if step is None else step.remote.proto
        local, other = tunnel.ipv4, tunnel.ipv4_peer
        ends = (str(local.ip), str(other)) if local is not None and other is not None else ("", "")
        own = occ.StaticEnd(config.cipher, config.direction, *ends)
        family = Family.IPV6 if len(endpoint) == 4 else Family.IPV4
        carrier = carrier_of(common, proto, config.cipher, common.compression, peer_id=False, epoch=False, static=True)
        ours = occ.build(common, proto, family, server=False, static=own)
        return Inquiries(ours, carrier), occ.build(common, proto, family, server=True, static=own.other())

    def _occ(self, state: Working, message: bytes, size: int, now: float) -> None:
        if answer := state.inquiries.answer(message, size, now):
            self._out.append(SendInner(PEER, answer))
        if (theirs := options_in(message)) and state.inquiries.replied():
            for line in occ.mismatches(state.expected, theirs):
                self._say(Level.WARNING, line)

    def _limits(self, step: Try | None, endpoint: SockAddr) -> PeerLimits:
        timers = self._common.timers
        common = self._common if step is None else within_proxy(self._common, step.remote)
        if common.mssfix and common.mssfix_of is not SizeOf.INNER:
            common = replace(common, mssfix=max(common.mssfix - MORE_THAN_V1, 1))
        limits = peer_limits(
            common,
            self._proto if step is None else step.remote.proto,
            endpoint,
            cipher=self._config.cipher,
            ping=timers.ping,
            silence=timers.ping_exit or timers.ping_restart,
            peer_id=False,
        )
        if endpoint == NOWHERE:  # whoever shows the key is the other end; nobody is missed until then
            return replace(limits, bare=True, floats=True, ping=0.0, silence=0.0)
        return replace(limits, bare=True)

    def _keys(self) -> DataKeys:
        """OpenVPN's directions: 0 sends with the first half and receives with the second, 1 the other way round."""
        first, second = split_key2(self._config.key.reveal())
        ours, theirs = {None: (first, first), 0: (first, second), 1: (second, first)}[self._config.direction]
        self._since = max(self._unix_time(), self._since + 1)  # a numbering must be newer than the one before
        return DataKeys(
            self._config.cipher, self._half(ours), self._half(theirs),
            digest=self._common.digest, since=self._since, seen=self._seen,
        )  # fmt: skip

    def _half(self, half: KeyHalf) -> DirectionKeys:
        cipher = half.cipher.reveal()[: SUITES[self._config.cipher].key_size]
        hmac = half.hmac.reveal()[: digest_size(self._common.digest)]
        return DirectionKeys(Secret(cipher), hmac_key=Secret(hmac))

    # --- ends

    def _tick(self, now: float) -> None:
        match self._state:
            case Pausing(until) if now >= until:
                self._next_step(now)
            case Opening(_, _, deadline) if now >= deadline:
                self._lose("the transport did not open in time", now)
            case Working(farewell=Farewell() as farewell):
                if farewell.due(now):
                    self._say_goodbye()
                if farewell.over:
                    self._stop(StopKind.ASKED, "disconnected")
            case Working(lifetime=lifetime, inquiries=inquiries):
                if question := inquiries.question(now):
                    self._out.append(SendInner(PEER, question))
                if lifetime.over(now):
                    self._say_goodbye()
                    self._stop(StopKind.CONNECTION, "the tunnel has lasted as long as it may (session-timeout)")
                elif lifetime.look(now):
                    self._out.append(CountTraffic(PEER))

    def _lose(self, reason: str, now: float) -> None:
        state = self._state
        if isinstance(state, Working) and state.farewell is not None:
            self._stop(StopKind.ASKED, "disconnected")
            return
        self._say(Level.WARNING, reason)
        self._clear(reason)
        if isinstance(state, Working) and state.step is not None:  # the next numbering must have a newer time
            self._state = Pausing(now + max(self._remotes.again(state.step, lasted=False), 1.0))
        elif isinstance(state, Waiting | Working):
            self._state = Pausing(now + 1.0)
        else:
            self._next_step(now)

    def _clear(self, reason: str) -> None:
        state = self._state
        self._state = Idle()
        if isinstance(state, Working):
            self._out.append(TunnelDown(reason))
        if isinstance(state, Working) or (isinstance(state, Waiting) and state.known):
            self._out.append(RemovePeer(PEER))
        if isinstance(state, Opening | Waiting | Working):
            self._out.append(CloseTransport(state.link))

    def _stop(self, kind: StopKind, reason: str) -> None:
        self._clear(reason)
        self._stopped = True
        self._out.append(Stop(kind, reason))

    def _say(self, level: Level, text: str) -> None:
        self._out.append(Notify(level, text))


def _address(endpoint: SockAddr) -> IPv4Address | IPv6Address:
    return ip_address(endpoint[0].partition("%")[0])
