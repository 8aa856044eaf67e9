# SPDX-License-Identifier: BSD-2-Clause
"""Both roles in one memory: machines, reference data channels, a link and a fake clock. Nothing sleeps.

`World` runs events in the order of their time. Each `Side` is what a driver would be: it turns effects into calls on a
`DataChannel` and into packets on the link, and keeps what it was told for the tests to look at.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network, ip_address
from typing import Any, TypeVar

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import (
    ClientConfig,
    Common,
    ControlWrap,
    Identity,
    Listen,
    NoWrap,
    PeerPolicy,
    PointServer,
    Proto,
    Remote,
    ServerConfig,
    Timers,
)
from qubes_miragevpn.dataplane.ethernet.channel import SwitchedChannel
from qubes_miragevpn.dataplane.ethernet.switch import Switch, SwitchRules
from qubes_miragevpn.dataplane.interface import PeerEvent, SockAddr
from qubes_miragevpn.dataplane.reference import DATA_OPCODES, DataChannel
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.client import Client
from qubes_miragevpn.protocol.server import Server
from tests.interop.pki import Pki
from tests.pair.link import Rule, perfect

SERVER_AT = ("198.51.100.1", 1194)
CLIENT_AT = ("192.0.2.1", 40000)
_IN_CLEAR = NoWrap()
UNIX_EPOCH_OF_THE_WORLD = 1_700_000_000


def policy(pki: Pki, role: str) -> PeerPolicy:
    return PeerPolicy(ca_pem=pki.ca.encode(), remote_cert_tls=role)


def client_config(pki: Pki, wrap: ControlWrap = _IN_CLEAR, proto: Proto = Proto.UDP, **changes: Any) -> ClientConfig:
    """A client profile for the world's server; `changes` replace fields of `Common` or of the profile."""
    identity = Identity(pki.client.certificate.encode(), Secret(pki.client.key.encode()))
    common = Common(wrap, identity, policy(pki, "server"))
    config = ClientConfig(common, (Remote(SERVER_AT[0], SERVER_AT[1], proto),))
    return _changed(config, changes)


def server_config(pki: Pki, wrap: ControlWrap = _IN_CLEAR, proto: Proto = Proto.UDP, **changes: Any) -> ServerConfig:
    """The world's server."""
    common = Common(
        wrap,
        Identity(pki.server.certificate.encode(), Secret(pki.server.key.encode())),
        policy(pki, "client"),
        timers=Timers(ping=10, ping_restart=120),
    )
    config = ServerConfig(
        common, Listen("", SERVER_AT[1], proto), IPv4Network("10.8.0.0/24"), push=("ping 10", "ping-restart 60")
    )
    return _changed(config, changes)


Config = TypeVar("Config", ClientConfig, ServerConfig)


def _changed(config: Config, changes: dict[str, Any]) -> Config:
    own = {name: value for name, value in changes.items() if hasattr(config, name)}
    common = {name: value for name, value in changes.items() if name not in own}
    return replace(config, common=replace(config.common, **common), **own)


class Side:
    """One machine with its data channel, driven as a driver would."""

    def __init__(self, world: World, machine: Client | Server, place: SockAddr, link: int) -> None:
        self.world = world
        self.machine = machine
        self.place = place
        self.link = link
        self.channel = DataChannel(server=isinstance(machine, Server) and not world.between_two)
        if isinstance(machine, Server) and world.ethernet:
            self.channel = SwitchedChannel(Switch(SwitchRules()))
        self.tun: list[bytes] = []  # inner packets that arrived
        self.seen: list[c.Effect] = []  # every effect but packets
        self.sent: list[bytes] = []  # control packets, as they left
        self.keys: dict[int, object] = {}  # key id -> DataKeys now installed
        self.peer: int | None = None
        self.stream = False  # a client whose connection is TCP

    def effects(self, kind: type[Any]) -> list[Any]:
        """The effects of one type so far."""
        return [effect for effect in self.seen if isinstance(effect, kind)]

    def event(self, event: c.Event) -> None:
        for effect in self.machine.handle(event, self.world.now):
            self._apply(effect)
        self._drain()

    def _apply(self, effect: c.Effect) -> None:
        now = self.world.now
        match effect:
            case c.Transmit(link, endpoint, packet):
                self.sent.append(packet)
                self.world.carry(self, link, endpoint, packet)
                return
            case c.OpenTransport(link, proto, address, port):
                self.link, self.stream = link, proto is Proto.TCP
                self.world.soon(lambda: self.event(c.TransportUp(link, (str(address), port))))
                self.world.connected(self, link)
            case c.AddPeer(peer, link, endpoint, peer_id, limits):
                self.peer = peer
                self.channel.add_peer(peer, link, endpoint, peer_id, limits)
            case c.AssignAddresses(peer, _, addresses):
                self.channel.set_addresses(peer, addresses, effect.networks)
            case c.RemovePeer(peer):
                self.channel.remove_peer(peer)
                self.keys.clear()
            case c.InstallKey(peer, key_id, keys):
                self.keys[key_id] = keys
                self.channel.install_key(peer, key_id, keys, now)
            case c.ActivateKey(peer, key_id):
                self.channel.activate_key(peer, key_id, now)
            case c.RetireKey(peer, key_id):
                del self.keys[key_id]
                self.channel.retire_key(peer, key_id)
            case c.CountTraffic(peer):
                count = self.channel.counters(peer)
                self.world.soon(lambda: self.event(c.TrafficCounted(peer, count.bytes_in + count.bytes_out)))
            case c.SendInner(peer, payload):
                self.channel.send_inner(peer, payload, now)
        self.seen.append(effect)

    def arrives(self, link: int, endpoint: SockAddr, packet: bytes) -> None:
        """A packet from the link: data to the channel, everything else to the machine."""
        if packet and packet[0] >> 3 in DATA_OPCODES:
            inner = self.channel.receive(link, endpoint, packet, self.world.now)
            if inner is not None:
                self.tun.append(inner)
            self._drain()
        else:
            self.event(c.PacketReceived(link, endpoint, packet))

    def send(self, inner: bytes) -> None:
        """An inner packet from this side's TUN."""
        out = self.channel.send(inner, self.world.now)
        self._drain()
        if out is not None:
            self.world.carry(self, *out)

    def _drain(self) -> None:
        outbox, self.channel.outbox = self.channel.outbox, []
        for out in outbox:
            self.world.carry(self, *out)
        events, self.channel.events = self.channel.events, []
        for event in events:
            if isinstance(event, PeerEvent):
                self.event(event)

    def deadline(self) -> float:
        times = (self.machine.next_deadline(), self.channel.next_deadline())
        return min((t for t in times if t is not None), default=float("inf"))

    def tick(self) -> None:
        if (at := self.machine.next_deadline()) is not None and at <= self.world.now:
            self.event(c.TimerExpired())
        if (at := self.channel.next_deadline()) is not None and at <= self.world.now:
            self.channel.tick(self.world.now)
            self._drain()


class World:
    """A server, its clients, the link between them, and time."""

    def __init__(
        self, server: ServerConfig | PointServer, *, to_server: Rule = perfect, to_client: Rule = perfect, seed: int = 1
    ) -> None:
        self.now = 1000.0
        self._dice = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.to_server, self.to_client = to_server, to_client
        self.between_two = isinstance(server, PointServer)
        self.ethernet = server.common.ethernet and not self.between_two
        self.stream = server.listen.proto is Proto.TCP  # else datagrams come to link 0
        self.server = Side(self, Server(server, entropy=self.entropy, unix_time=self.unix_time), SERVER_AT, 0)
        self.clients: list[Side] = []
        self._accepted: dict[int, tuple[Side, int]] = {}  # server's link -> client and the client's link
        self.wire: list[tuple[Side, bytes]] = []  # everything that was put on the link

    def entropy(self, size: int) -> bytes:
        return self._dice.randbytes(size)

    def unix_time(self) -> int:
        return UNIX_EPOCH_OF_THE_WORLD + int(self.now)

    def client(self, config: ClientConfig) -> Side:
        """Add a client and have it connect."""
        place = (CLIENT_AT[0], CLIENT_AT[1] + len(self.clients))
        side = Side(self, Client(config, entropy=self.entropy, unix_time=self.unix_time), place, 0)
        self.clients.append(side)
        side.event(c.UserCommand(c.Command.CONNECT))
        return side

    def connected(self, client: Side, link: int) -> None:
        if client.stream:
            number = 100 + next(self._order)
            self._accepted[number] = (client, link)
            self.soon(lambda: self.server.event(c.TransportUp(number, client.place)))

    def carry(self, sender: Side, link: int, endpoint: SockAddr, packet: bytes) -> None:
        """Put one packet on the link; a stream neither loses nor reorders."""
        self.wire.append((sender, packet))
        to_server = sender is not self.server
        stream = sender.stream or (link in self._accepted and not to_server)
        decide = perfect if stream else self.to_server if to_server else self.to_client
        for delay, arrived in decide(packet):
            self._at(self.now + delay, self._arrival(sender, link, endpoint, arrived))

    def _arrival(self, sender: Side, link: int, endpoint: SockAddr, packet: bytes) -> Callable[[], None]:
        def arrive() -> None:
            if sender is not self.server:
                links = [n for n, there in self._accepted.items() if there == (sender, link)] if sender.stream else [0]
                for number in links:
                    self.server.arrives(number, sender.place, packet)
                return
            for client in self.clients:
                there = (client, client.link) if client.stream else None
                if client.place == endpoint and self._accepted.get(link) == there:
                    client.arrives(client.link, SERVER_AT, packet)

        return arrive

    def soon(self, action: Callable[[], None]) -> None:
        self._at(self.now, action)

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), action))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, at most `seconds`, until the condition holds; tell whether it does."""
        end = self.now + seconds
        while not until():
            sides = [self.server, *self.clients]
            following = min(self._queue[0][0] if self._queue else float("inf"), *(side.deadline() for side in sides))
            if following > end:
                self.now = end
                return until()
            self.now = max(self.now, following)
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for side in sides:
                side.tick()
        return True


def up(side: Side) -> bool:
    """The client's tunnel works."""
    ups, downs = len(side.effects(c.TunnelUp)), len(side.effects(c.TunnelDown))
    return ups > downs


def inner_packet(source: str, destination: str, payload: bytes) -> bytes:
    """A minimal IPv4 packet (protocol 253, for experiments) around `payload`."""
    size = (20 + len(payload)).to_bytes(2, "big")
    addresses = ip_address(source).packed + ip_address(destination).packed
    return b"\x45\0" + size + b"\0\0\0\0\x40\xfd\0\0" + addresses + payload
