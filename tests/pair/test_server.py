# SPDX-License-Identifier: BSD-2-Clause
"""The server machine: several clients, addresses, replacement of sessions, TCP connections, floods, and its end."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Frequency, Identity, Listen, NameCheck, NameType, PeerPolicy, Proto, Timers
from qubes_miragevpn.dataplane.interface import PeerExited, PeerSilent, SockAddr
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.server import EXIT_DELAY, Server
from qubes_miragevpn.protocol.serving.entrance import TIME_TO_SPEAK
from qubes_miragevpn.protocol.serving.registry import MAX_CANDIDATES, MAX_FROM_ONE
from qubes_miragevpn.protocol.wire.packet import Body, Head, Opcode, read_head
from tests.interop.pki import Pem, Pki
from tests.pair.hostile import STRANGER, Attacker
from tests.pair.test_handshake import WRAPS, connected, transfer
from tests.pair.world import SERVER_AT, Side, World, client_config, server_config, up
from tests.unit.protocol import certificates as made


def identity(pem: Pem) -> Identity:
    return Identity(pem.certificate.encode(), Secret(pem.key.encode()))


def machine(world: World) -> Any:
    return world.server.machine


def join(world: World, pki: Pki, pem: Pem | None = None, **config: Any) -> Side:
    side = world.client(client_config(pki, identity=identity(pem or pki.client), **config))
    connected(world, side)
    return side


def address(side: Side) -> str:
    return str(side.effects(c.TunnelUp)[-1].settings.ipv4.ip)


def reset(sid: bytes = b"strange!") -> bytes:
    return Head(Opcode.HARD_RESET_CLIENT, 0, sid).encode() + Body((), None, 0).encode()


def test_clients_have_addresses_of_their_own(pki: Pki) -> None:
    world = World(server_config(pki))
    one, two = join(world, pki), join(world, pki, pki.second_client)
    assert (address(one), address(two)) == ("10.8.0.2", "10.8.0.3")
    assert [each.addresses[0].compressed for each in world.server.effects(c.AssignAddresses)] == [
        "10.8.0.2",
        "10.8.0.3",
    ]
    assert {each.name for each in world.server.effects(c.AssignAddresses)} == {"qube-one", "qube-two"}
    transfer(world, one)
    transfer(world, two)


def test_the_same_name_from_elsewhere_replaces_the_session(pki: Pki) -> None:
    world = World(server_config(pki))
    one = join(world, pki)
    two = join(world, pki)
    assert address(two) == address(one), "and keeps its address"
    assert len(machine(world)._peers) == 1 and len(world.server.effects(c.RemovePeer)) == 1


def test_duplicate_cn_lets_both_stay(pki: Pki) -> None:
    world = World(server_config(pki, duplicate_cn=True))
    one, two = join(world, pki), join(world, pki)
    assert address(one) != address(two) and len(machine(world)._peers) == 2


def test_a_client_that_begins_again_replaces_itself_only_when_authenticated(pki: Pki) -> None:
    world = World(server_config(pki))
    client = join(world, pki)
    client.event(c.UserCommand(c.Command.RECONNECT))
    seen = len(world.server.seen)
    connected(world, client)
    kinds = [type(effect) for effect in world.server.seen[seen:] if isinstance(effect, c.RemovePeer | c.AddPeer)]
    assert kinds == [c.RemovePeer, c.AddPeer] and len(machine(world)._peers) == 1
    transfer(world, client)


def test_a_hard_reset_from_the_victims_address_leaves_its_session_alone(pki: Pki) -> None:
    world = World(server_config(pki))
    client = join(world, pki)
    attacker = Attacker(world, 1)
    for n in range(50):
        attacker.throw(world.server, reset(n.to_bytes(8, "big")))
    assert len(machine(world)._peers) == 1
    transfer(world, client)


@pytest.mark.parametrize("good", [False, True])
def test_a_session_without_a_certificate_from_the_victims_address_changes_nothing(pki: Pki, good: bool) -> None:
    """An attacker on the path completes the cookie round trip from the victim's address, but has no certificate."""
    world = World(server_config(pki))
    client = join(world, pki)
    thief = world.client(client_config(pki, identity=None if good else identity(pki.foreign_client)))
    thief.place = client.place
    world.run(30)
    assert not up(thief) and not world.server.effects(c.RemovePeer)
    assert sum(peer.admitted for peer in machine(world)._peers) == 1


def test_max_clients(pki: Pki) -> None:
    world = World(server_config(pki, max_clients=1))
    one = join(world, pki)
    two = world.client(client_config(pki, identity=identity(pki.second_client)))
    assert not world.run(20, lambda: up(two))
    transfer(world, one)
    one.event(c.UserCommand(c.Command.DISCONNECT))
    assert world.run(400, lambda: up(two))


def test_a_used_up_pool_refuses_the_newcomer(pki: Pki) -> None:
    world = World(server_config(pki, network=IPv4Network("10.8.0.0/30")))
    one = join(world, pki)
    two = world.client(client_config(pki, identity=identity(pki.second_client)))
    assert not world.run(20, lambda: up(two))
    transfer(world, one)


def test_exit_is_one_farewell_however_often_it_is_said(pki: Pki) -> None:
    world = World(server_config(pki))
    client = join(world, pki)
    session: Any = client.machine._state._session  # type: ignore[union-attr]
    began = world.now
    for n in range(12):  # every tenth of a second, beyond the farewell
        session.send_message("EXIT", world.now)
        for packet in session.drain()[0]:
            world.carry(client, client.link, SERVER_AT, packet)
        world.run(0.1, lambda: bool(world.server.effects(c.RemovePeer)))
        assert n < 11 or world.server.effects(c.RemovePeer)
    assert EXIT_DELAY <= world.now - began < EXIT_DELAY + 0.3 and not machine(world)._peers


def test_a_flood_of_push_requests_is_answered_once(pki: Pki) -> None:
    world = World(server_config(pki))
    client = join(world, pki)
    session: Any = client.machine._state._session  # type: ignore[union-attr]
    for _ in range(200):
        session.send_message("PUSH_REQUEST", world.now)
        for packet in session.drain()[0]:
            world.carry(client, client.link, SERVER_AT, packet)
        world.run(0.2)
    assert len(world.server.effects(c.AddPeer)) == 1 and len(client.effects(c.TunnelUp)) == 1
    transfer(world, client)


@pytest.mark.parametrize("event", [PeerSilent(0), PeerExited(0)])
def test_a_client_that_is_gone_is_forgotten_with_its_address(pki: Pki, event: c.Event) -> None:
    world = World(server_config(pki))
    join(world, pki)
    world.server.event(event)
    assert (
        world.server.effects(c.RemovePeer)
        and not machine(world)._peers
        and not machine(world)._welcome._pool._leases.used
    )
    world.server.event(event)  # and again, which concerns nobody
    assert len(world.server.effects(c.RemovePeer)) == 1


@pytest.mark.parametrize("proto", Proto)
def test_stopping_tells_every_client_to_come_back(pki: Pki, proto: Proto) -> None:
    world = World(server_config(pki, proto=proto))
    clients = [
        join(world, pki, pem, remotes=(client_config(pki, proto=proto).remotes))
        for pem in (pki.client, pki.second_client)
    ]
    world.server.event(c.UserCommand(c.Command.DISCONNECT))
    assert [stop.kind for stop in world.server.effects(c.Stop)] == [c.StopKind.ASKED]
    assert len(world.server.effects(c.RemovePeer)) == 2
    world.run(0.5)
    for client in clients:
        assert any("asks for a new connection" in down.reason for down in client.effects(c.TunnelDown))
    assert world.server.machine.handle(c.TimerExpired(), world.now) == []


# --- TCP


def tcp(pki: Pki, **changes: Any) -> tuple[World, Attacker]:
    world = World(server_config(pki, proto=Proto.TCP, timers=Timers(hand_window=30), **changes))
    return world, Attacker(world, 3)


def test_connections_that_never_speak_are_closed(pki: Pki) -> None:
    world, attacker = tcp(pki)
    for link in range(50):
        attacker.event(world.server, c.TransportUp(link, STRANGER))
    world.run(29.9)
    assert not world.server.effects(c.CloseTransport)
    world.run(0.2)
    assert sorted(each.link for each in world.server.effects(c.CloseTransport)) == list(range(50))
    assert machine(world).next_deadline() is None and len(machine(world)._entrance._silent) == 0


def test_connections_that_speak_nonsense_slowly_are_closed_in_the_same_time(pki: Pki) -> None:
    world, attacker = tcp(pki)
    attacker.event(world.server, c.TransportUp(1, STRANGER))
    for _ in range(100):
        world.server.event(c.PacketReceived(1, STRANGER, attacker.noise()))
        world.run(0.3)
    world.run(1)
    assert [each.link for each in world.server.effects(c.CloseTransport)] == [1] and not world.server.sent


def test_a_handshake_that_stops_is_closed(pki: Pki) -> None:
    world, attacker = tcp(pki)
    attacker.event(world.server, c.TransportUp(1, STRANGER))
    world.server.event(c.PacketReceived(1, STRANGER, reset()))
    assert len(machine(world)._peers) == 1 and len(world.server.sent) == 1
    world.server.event(c.PacketReceived(1, STRANGER, reset(b"another!")))
    assert len(machine(world)._peers) == 1 and len(world.server.sent) == 1, "one session for one connection"
    world.run(30.1)
    assert not machine(world)._peers and world.server.effects(c.CloseTransport)


@pytest.mark.parametrize("opcode", range(32))
def test_only_a_hard_reset_begins_on_a_connection(pki: Pki, opcode: int) -> None:
    world, attacker = tcp(pki)
    for key_id in range(8):
        attacker.event(world.server, c.TransportUp(key_id, STRANGER))
        body = Body((), None, 0).encode()
        world.server.event(c.PacketReceived(key_id, STRANGER, bytes((opcode << 3 | key_id,)) + b"strange!" + body))
    world.run(20)
    assert len(world.server.sent) == (1 if opcode == Opcode.HARD_RESET_CLIENT else 0) == len(machine(world)._peers)


def test_silent_connections_are_bounded_and_cheap(pki: Pki) -> None:
    world, attacker = tcp(pki)
    for link in range(10_000):
        attacker.event(world.server, c.TransportUp(link, (f"203.0.{link % 7}.1", link)))
        machine(world).next_deadline()
    assert len(machine(world)._entrance._silent) == MAX_CANDIDATES
    assert len(world.server.effects(c.CloseTransport)) == 10_000 - MAX_CANDIDATES


def test_silent_connections_give_way_to_a_client(pki: Pki) -> None:
    """One host takes a quarter of the places at most; of a few that have all, the largest leaves one to a newcomer."""
    world, attacker = tcp(pki)
    for link in range(1000, 1500):
        attacker.event(world.server, c.TransportUp(link, STRANGER))
    assert len(machine(world)._entrance._silent) == MAX_FROM_ONE
    join(world, pki, remotes=client_config(pki, proto=Proto.TCP).remotes)
    for link in range(2000, 3000):
        attacker.event(world.server, c.TransportUp(link, (f"198.18.{link % 5}.1", link)))
    assert len(machine(world)._entrance._silent) == MAX_CANDIDATES
    closed = len(world.server.effects(c.CloseTransport))
    join(world, pki, pki.second_client, remotes=client_config(pki, proto=Proto.TCP).remotes)
    assert len(world.server.effects(c.CloseTransport)) == closed + 1


def test_where_nobody_has_more_than_others_who_was_silent_longest_goes(pki: Pki) -> None:
    world, attacker = tcp(pki)
    places = [(f"198.18.{number}.1", 1) for number in range(MAX_CANDIDATES)]
    for link, place in enumerate(places, 1000):
        attacker.event(world.server, c.TransportUp(link, place))
    attacker.event(world.server, c.TransportUp(3000, places[7]))
    assert [each.link for each in world.server.effects(c.CloseTransport)] == [3000]
    world.run(TIME_TO_SPEAK)
    attacker.event(world.server, c.TransportUp(3001, places[7]))
    attacker.event(world.server, c.TransportUp(3002, ("203.0.113.5", 1)))
    assert [each.link for each in world.server.effects(c.CloseTransport)][1:] == [1000, 3001 - 2001 + 7]


def test_a_lost_connection_is_a_lost_client(pki: Pki) -> None:
    world, _ = tcp(pki)
    client = join(world, pki, remotes=client_config(pki, proto=Proto.TCP).remotes)
    link = next(iter(machine(world)._peers)).link
    world.server.event(c.TransportDown(link, "reset by \x1b peer"))
    assert world.server.effects(c.RemovePeer) and not machine(world)._peers
    assert client is not None


# --- floods


def test_spoofed_resets_cost_an_answer_each_at_most_and_no_memory(pki: Pki) -> None:
    world = World(server_config(pki))
    answers = 0
    for n in range(20_000):
        place = (f"203.0.{n >> 8}.{n & 255}", 1000)
        sent = [
            e
            for e in machine(world).handle(c.PacketReceived(0, place, reset()), world.now)
            if isinstance(e, c.Transmit)
        ]
        assert len(sent) <= 1 and all(len(one.packet) == 26 and one.endpoint == place for one in sent)
        answers += len(sent)
    assert answers == 100 and not machine(world)._peers and not machine(world)._peers._by_place
    assert machine(world).next_deadline() is None, "nothing is ever retransmitted to an address that proved nothing"


def begin(world: World, place: SockAddr) -> None:
    """Somebody completes the cookie round trip, and stops there."""
    answers = machine(world).handle(c.PacketReceived(0, place, reset()), world.now)
    for answer in answers:
        if isinstance(answer, c.Transmit):
            third = Head(Opcode.ACK, 0, b"strange!").encode() + Body((0,), answer.packet[1:9], None).encode()
            machine(world).handle(c.PacketReceived(0, place, third), world.now)


def test_candidates_are_bounded_and_die(pki: Pki) -> None:
    """Somebody with many ports, then many with one each."""
    world = World(server_config(pki))
    server: Server = machine(world)
    for n in range(MAX_FROM_ONE + 100):
        world.now += 0.55  # within the ration of answers to one source
        begin(world, ("203.0.113.66", 1000 + n))
    assert len(server._peers) == MAX_FROM_ONE
    join(world, pki)
    for n in range(MAX_CANDIDATES + 100):
        world.now += 0.11
        begin(world, (f"203.0.{n}.1" if n < 256 else f"198.18.{n - 256}.1", 1000))
    assert len(server._peers) == MAX_CANDIDATES + 1
    world.run(61)
    assert len(server._peers) == 1 and len(server._peers._by_place) == 1
    assert len(server._peers._candidates) == 0 and not server._peers._candidates._of
    join(world, pki, pki.second_client)


def test_handshakes_of_a_few_hosts_keep_nobody_out(pki: Pki) -> None:
    """They take all the places there are, again and again; a client takes that of one of theirs."""
    world = World(server_config(pki))
    for n in range(2 * MAX_CANDIDATES):
        world.now += 0.11
        begin(world, (f"203.0.113.{n % 6}", 1000 + n))
    assert len(machine(world)._peers) == MAX_CANDIDATES
    began = world.now
    join(world, pki)
    assert world.now - began < 1 and len(machine(world)._peers) == MAX_CANDIDATES


def test_handshakes_begin_as_often_as_the_file_says(pki: Pki) -> None:
    world = World(server_config(pki, new_clients=Frequency(3, 30.0)))
    for n in range(10):
        begin(world, (f"203.0.113.{n}", 1))
    assert len(machine(world)._peers) == 3
    world.now += 30
    join(world, pki)


def test_a_flood_from_one_address_leaves_answers_for_others(pki: Pki) -> None:
    """From all of his ports together he gets a fifth of them."""
    world = World(server_config(pki))
    attacker = Attacker(world, 1)
    for n in range(2000):
        attacker.throw(world.server, reset(n.to_bytes(8, "big")), (STRANGER[0], 1 + n))
    assert len(world.server.sent) == 20
    began = world.now
    join(world, pki)
    assert world.now - began < 1, "answered at once"


def test_those_who_log_in_do_not_use_up_the_answers(pki: Pki) -> None:
    """A server that starts again is not slow for those who come back, all at once."""
    world = World(server_config(pki, first_packets=Frequency(2, 1000.0), duplicate_cn=True))
    for _ in range(5):
        join(world, pki)
    for n in range(5):
        begin(world, (f"203.0.113.{n}", 1))
    assert len(machine(world)._peers) == 7


def test_a_packet_of_another_session_under_the_same_static_key_does_no_harm(pki: Pki) -> None:
    """The static key is shared by all clients: what the server sends to one, later, must not deafen another."""
    ours, theirs = WRAPS["tls-crypt"]
    world = World(server_config(pki, theirs))
    one = world.client(client_config(pki, ours))
    connected(world, one)
    world.run(100)
    two = world.client(client_config(pki, ours, identity=identity(pki.second_client)))
    connected(world, two)
    for sender, packet in list(world.wire):
        if packet[0] >> 3 not in (6, 9):
            victim = one if sender is world.server else world.server
            victim.event(c.PacketReceived(victim.link, SERVER_AT if victim is one else one.place, packet))
    one.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert world.run(5, lambda: 1 in one.keys)
    transfer(world, one)
    assert not one.effects(c.TunnelDown)


def test_a_recorded_handshake_played_back_later_makes_no_session(pki: Pki) -> None:
    ours, theirs = WRAPS["tls-crypt"]
    world = World(server_config(pki, theirs))
    client = join(world, pki, wrap=ours)
    recorded = [packet for sender, packet in world.wire if sender is client and packet[0] >> 3 not in (6, 9)]
    client.event(c.UserCommand(c.Command.DISCONNECT))
    world.run(7200)
    sent = len(world.server.sent)
    for packet in recorded:
        world.server.event(c.PacketReceived(0, client.place, packet))
    assert not machine(world)._peers and len(world.server.sent) - sent <= 2, "an answer to a hard reset, at most"


# --- certificates

DAY = made.timedelta(days=1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("expired", {"age": 3 * DAY, "life": DAY}),
        ("not yet valid", {"age": -DAY}),
        ("a client's", {"extended": (made.CLIENT_AUTH,)}),
        ("no extended usage", {"extended": None}),
        ("another name", {"subject": ((made.CN, "evil.example"),)}),
        ("a longer name", {"subject": ((made.CN, "vpn.example.evil.example"),)}),
        ("a wildcard", {"subject": ((made.CN, "*.example"),)}),
        ("a NUL in the name", {"subject": ((made.CN, "vpn.example\0.evil.example"),)}),
        ("good", {}),
    ],
)
def test_certificates_of_a_server(pki: Pki, name: str, options: dict[str, Any]) -> None:
    """The CA is the one key of the module; what differs is the leaf."""
    ca = made.certificate(((made.CN, "CA"),), usages=("key_cert_sign",), extended=None, ca=True)
    leaf = made.certificate(**{"subject": ((made.CN, "vpn.example"),), "issuer": ((made.CN, "CA"),), **options})
    world = World(server_config(pki, identity=Identity(made.pem(leaf), Secret(made.key_pem()))))
    trust = PeerPolicy(ca_pem=made.pem(ca), remote_cert_tls="server", name=NameCheck("vpn.example", NameType.NAME))
    client = world.client(client_config(pki, peer=trust))
    assert world.run(20, lambda: up(client)) is (name == "good")
    if name != "good":
        assert not world.server.effects(c.AddPeer)


@pytest.mark.parametrize("right", [True, False])
def test_pinned_fingerprints_without_a_ca(pki: Pki, right: bool) -> None:
    leaf = made.certificate(((made.CN, "self-signed"),))
    other = made.certificate(((made.CN, "self-signed"),))
    pinned = made.hashes.SHA256()
    trust = PeerPolicy(fingerprints=frozenset({(leaf if right else other).fingerprint(pinned)}))
    world = World(server_config(pki, identity=Identity(made.pem(leaf), Secret(made.key_pem()))))
    client = world.client(client_config(pki, peer=trust))
    assert world.run(20, lambda: up(client)) is right


def test_each_client_is_served_as_it_came(pki: Pki) -> None:
    """UDP and TCP at once: the sizes, the answers to strangers and the ends are those of the client's own link."""
    world = World(server_config(pki, beside=(Listen("", 443, Proto.TCP),), duplicate_cn=True))
    by_udp = join(world, pki)
    by_tcp = join(world, pki, proto=Proto.TCP)
    transfer(world, by_udp)
    transfer(world, by_tcp)
    udp, tcp = (effect.limits for effect in world.server.effects(c.AddPeer))
    assert udp.floats and not tcp.floats
    assert udp.mss4 == tcp.mss4 + 12 + 2, "the header of TCP, and a length before each packet"
    by_udp.event(c.UserCommand(c.Command.DISCONNECT))
    world.run(5)
    assert not world.server.effects(c.CloseTransport), "the socket of all others by UDP stays open"
    by_tcp.event(c.UserCommand(c.Command.DISCONNECT))
    world.run(5)
    assert len(world.server.effects(c.CloseTransport)) == 1 and not len(machine(world)._peers)


def test_a_cookie_is_good_at_its_place_only(pki: Pki) -> None:
    server = Server(
        server_config(pki, beside=(Listen("", 7, Proto.UDP),)), entropy=bytes, unix_time=lambda: 1_700_000_000
    )
    (answer,) = server.handle(c.PacketReceived(1, STRANGER, reset()), 0.0)
    assert isinstance(answer, c.Transmit) and answer.link == 1
    sid = read_head(answer.packet).sid
    third = Head(Opcode.ACK, 0, b"strange!").encode() + Body((0,), sid, None).encode()
    assert isinstance(server.handle(c.PacketReceived(0, STRANGER, third), 0.0)[-1], c.Drop)
    assert not len(server._peers)
    server.handle(c.PacketReceived(1, STRANGER, third), 0.0)
    assert len(server._peers) == 1


def test_a_packet_of_a_connection_that_is_gone_is_not_answered(pki: Pki) -> None:
    server = Server(
        server_config(pki, beside=(Listen("", 7, Proto.TCP),)), entropy=bytes, unix_time=lambda: 1_700_000_000
    )
    assert [type(each) for each in server.handle(c.PacketReceived(9, STRANGER, reset()), 0.0)] == [c.Drop]
    assert [type(each) for each in server.handle(c.PacketReceived(1, STRANGER, reset()), 0.0)] == [c.Drop]
