# SPDX-License-Identifier: BSD-2-Clause
"""Several peers on a server: who a packet is from, whom it is for, and what one peer may do to another."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest

from qubes_miragevpn.dataplane.interface import NO_PEER_ID, PeerLimits, SockAddr
from qubes_miragevpn.dataplane.reference import DataChannel, _due
from tests.unit.dataplane.packets import HERE, data_keys, ip_packet, tcp_packet, wire

ALICE: SockAddr = ("192.0.2.10", 5000)
BOB: SockAddr = ("192.0.2.11", 5000)
ALICE_IN, BOB_IN, SERVER_IN = "10.8.0.2", "10.8.0.3", "10.8.0.1"


def server(*, client_to_client: bool = False, peer_id: bool = True) -> DataChannel:
    """Alice is peer 0, Bob is peer 1; their keys differ."""
    channel = DataChannel(server=True, client_to_client=client_to_client)
    for handle, endpoint, inner in ((0, ALICE, ALICE_IN), (1, BOB, BOB_IN)):
        channel.add_peer(handle, 1, endpoint, handle if peer_id else NO_PEER_ID, PeerLimits(mss4=1300))
        channel.set_addresses(handle, [ip_address(inner), ip_address(f"fd00::{handle + 2}")])
        channel.install_key(handle, 0, data_keys(seed=1 + 40 * handle, reverse=True), 0.0)
        channel.activate_key(handle, 0, 0.0)
    return channel


def peer(handle: int, peer_id: int | None = None) -> DataChannel:
    """The client that the server knows as `handle`."""
    channel = DataChannel()
    channel.add_peer(1, 1, HERE, handle if peer_id is None else peer_id, PeerLimits())
    channel.install_key(1, 0, data_keys(seed=1 + 40 * handle), 0.0)
    channel.activate_key(1, 0, 0.0)
    return channel


@pytest.mark.parametrize("peer_id", [True, False], ids=["DATA_V2", "DATA_V1"])
def test_each_peer_has_its_own_keys_and_addresses(peer_id: bool) -> None:
    hub = server(peer_id=peer_id)
    for handle, endpoint, inner in ((0, ALICE, ALICE_IN), (1, BOB, BOB_IN)):
        far = peer(handle, None if peer_id else NO_PEER_ID)
        up = ip_packet(inner, SERVER_IN)
        assert hub.receive(1, endpoint, wire(far, up), 1.0) == up
        down = ip_packet(SERVER_IN, inner)
        outgoing = hub.send(down, 1.0)
        assert outgoing is not None and outgoing[:2] == (1, endpoint)
        assert far.receive(1, None, outgoing[2], 1.0) == down


def test_ipv6_addresses_route_as_well() -> None:
    outgoing = server().send(ip_packet("fd00::1", "fd00::3"), 1.0)
    assert outgoing is not None and outgoing[1] == BOB


@pytest.mark.parametrize(
    "source", [BOB_IN, SERVER_IN, "0.0.0.0", "224.0.0.1", "10.8.0.255", "127.0.0.1", "fd00::3", "fe80::1"]
)
def test_a_spoofed_source_is_dropped(source: str) -> None:
    hub = server(client_to_client=True)
    destination = "fd00::1" if ":" in source else SERVER_IN
    assert hub.receive(1, ALICE, wire(peer(0), ip_packet(source, destination)), 1.0) is None
    assert hub.counters(0).dropped_other == 1 and hub.counters(0).packets_in == 0
    assert hub.outbox == []


def test_peers_do_not_reach_each_other_unless_allowed() -> None:
    hub = server()
    assert hub.receive(1, ALICE, wire(peer(0), ip_packet(ALICE_IN, BOB_IN)), 1.0) is None
    assert hub.outbox == [] and hub.counters(0).dropped_other == 1


def test_client_to_client_seals_anew() -> None:
    hub, bob = server(client_to_client=True), peer(1)
    inner = ip_packet(ALICE_IN, BOB_IN)
    assert hub.receive(1, ALICE, wire(peer(0), inner), 1.0) is None
    ((link, endpoint, packet),) = hub.outbox
    assert (link, endpoint) == (1, BOB)
    assert bob.receive(1, None, packet, 1.0) == inner
    assert hub.counters(1).packets_out == 1


@pytest.mark.parametrize(
    ("sender", "claims", "seen_at"),
    [(0, 1, ALICE), (0, 1, BOB), (1, 0, BOB), (0, 0, BOB), (0, 5, ALICE), (0, 0xFFFFFF, ALICE)],
)
def test_the_peer_id_of_somebody_else(sender: int, claims: int, seen_at: SockAddr) -> None:
    hub = server()
    packet = wire(peer(sender, claims) if claims != 0xFFFFFF else peer(sender), ip_packet(ALICE_IN, SERVER_IN))
    if claims == 0xFFFFFF:
        packet = packet[:1] + b"\xff\xff\xff" + packet[4:]
    assert hub.receive(1, seen_at, packet, 1.0) is None
    assert hub.dropped_unknown + hub.counters(0).dropped_auth + hub.counters(1).dropped_auth == 1
    assert hub.events == []


def test_a_peer_is_bound_to_its_link() -> None:
    """Links of a TCP server: two peers on the first, nobody (or somebody else) on the second."""
    hub = server()
    packet = wire(peer(0), ip_packet(ALICE_IN, SERVER_IN))
    assert hub.receive(2, ALICE, packet, 1.0) is None
    assert hub.receive(2, None, packet, 1.0) is None
    assert hub.dropped_unknown == 2
    assert hub.receive(1, ALICE, packet, 1.0) is not None


def test_a_server_peer_without_addresses_is_mute() -> None:
    hub = DataChannel(server=True)
    hub.add_peer(0, 1, ALICE, 0, PeerLimits())
    hub.install_key(0, 0, data_keys(reverse=True), 0.0)
    hub.activate_key(0, 0, 0.0)
    assert hub.send(ip_packet(SERVER_IN, ALICE_IN), 1.0) is None
    assert hub.receive(1, ALICE, wire(peer(0), ip_packet(ALICE_IN, SERVER_IN)), 1.0) is None
    assert hub.dropped_unknown == 1 and hub.counters(0).dropped_other == 1


def test_addresses_restrict_a_peer_of_any_role() -> None:
    channel = DataChannel()
    channel.add_peer(0, 1, ALICE, 0, PeerLimits())
    channel.set_addresses(0, [ip_address(ALICE_IN)])
    channel.install_key(0, 0, data_keys(reverse=True), 0.0)
    assert channel.receive(1, ALICE, wire(peer(0), ip_packet(BOB_IN, SERVER_IN)), 1.0) is None


@pytest.mark.parametrize("destination", ["10.8.0.9", "224.0.0.1", "255.255.255.255", "10.8.0.255"])
def test_what_is_for_nobody_goes_nowhere(destination: str) -> None:
    hub = server()
    assert hub.send(ip_packet(SERVER_IN, destination), 1.0) is None
    assert hub.dropped_unknown == 1


@pytest.mark.parametrize("junk", [b"", b"\x45", bytes(40), b"\x60" * 39])
def test_junk_from_the_tun_goes_nowhere(junk: bytes) -> None:
    assert server().send(junk, 1.0) is None


def test_an_address_belongs_to_the_last_who_got_it() -> None:
    hub = server()
    hub.set_addresses(1, [ip_address(ALICE_IN)])
    outgoing = hub.send(ip_packet(SERVER_IN, ALICE_IN), 1.0)
    assert outgoing is not None and outgoing[1] == BOB
    assert hub.receive(1, ALICE, wire(peer(0), ip_packet(ALICE_IN, SERVER_IN)), 1.0) is None
    assert hub.send(ip_packet(SERVER_IN, BOB_IN), 1.0) is None
    hub.remove_peer(1)
    assert hub.send(ip_packet(SERVER_IN, ALICE_IN), 1.0) is None


def test_a_removed_peer_is_gone_with_all_that_names_it() -> None:
    hub = server()
    hub.remove_peer(0)
    assert hub.send(ip_packet(SERVER_IN, ALICE_IN), 1.0) is None
    for peer_id in (None, NO_PEER_ID):
        assert hub.receive(1, ALICE, wire(peer(0, peer_id), ip_packet(ALICE_IN, SERVER_IN)), 1.0) is None
    up = ip_packet(BOB_IN, SERVER_IN)
    assert hub.receive(1, BOB, wire(peer(1), up), 1.0) == up


def test_a_new_peer_at_an_old_endpoint_survives_the_removal_of_the_old_one() -> None:
    hub = server(peer_id=False)
    hub.add_peer(2, 1, ALICE, NO_PEER_ID, PeerLimits())
    hub.install_key(2, 0, data_keys(seed=90, reverse=True), 0.0)
    hub.remove_peer(0)
    hub.set_addresses(2, [ip_address(ALICE_IN)])
    fresh = DataChannel()
    fresh.add_peer(1, 1, HERE, NO_PEER_ID, PeerLimits())
    fresh.install_key(1, 0, data_keys(seed=90), 0.0)
    fresh.activate_key(1, 0, 0.0)
    up = ip_packet(ALICE_IN, SERVER_IN)
    assert hub.receive(1, ALICE, wire(fresh, up), 1.0) == up


def test_mss_is_clamped_in_both_directions() -> None:
    hub, alice = server(), peer(0)
    mss = b"\x02\x04\x05\xb4"
    up = hub.receive(1, ALICE, wire(alice, tcp_packet(ALICE_IN, SERVER_IN, mss)), 1.0)
    assert up is not None and up == tcp_packet(ALICE_IN, SERVER_IN, b"\x02\x04\x05\x14")
    outgoing = hub.send(tcp_packet(SERVER_IN, ALICE_IN, mss), 1.0)
    assert outgoing is not None
    assert alice.receive(1, None, outgoing[2], 1.0) == tcp_packet(SERVER_IN, ALICE_IN, b"\x02\x04\x05\x14")


def test_the_indexes_are_those_of_a_naive_twin() -> None:
    """Peers come, change and go at random; who is found, and what is due when, is what a look at each would say."""
    for is_server in (True, False):
        dice = random.Random(11)
        channel = DataChannel(server=is_server)
        peers, now, handle = channel._peers, 0.0, 0
        for _ in range(700):
            now += dice.random()
            there = list(peers.by_handle.values())
            one = dice.choice(there) if there else None
            match dice.randrange(8):
                case 0 | 1 if len(there) < 40:
                    handle += 1
                    limits = PeerLimits(ping=dice.choice((0, 3)), silence=dice.choice((0, 9)))
                    channel.add_peer(handle, dice.randrange(5), ("192.0.2.1", handle), handle, limits)
                case 2 if one is not None:
                    channel.remove_peer(one.handle)
                case 3 if one is not None:
                    inner = [ip_address(f"10.8.0.{dice.randrange(30)}") for _ in range(dice.randrange(3))]
                    lengths = [dice.choice((8, 16, 24)) for _ in range(dice.randrange(3))]
                    networks = [ip_network(f"{dice.randrange(10, 14)}.0.0.0/{length}") for length in lengths]
                    channel.set_addresses(one.handle, inner, networks)
                case 4 if one is not None:
                    channel.install_key(one.handle, 0, data_keys(), now)
                case 5 if one is not None and 0 in one.keys:
                    channel.activate_key(one.handle, 0, now)
                case 6 if one is not None:
                    channel.retire_key(one.handle, 0)
                case 7 if one is not None and one.keys:
                    one.heard = one.sent = now  # as traffic does
            if dice.randrange(4) == 0:
                channel.tick(now)
            there = list(peers.by_handle.values())
            links = {peer.link: [other for other in there if other.link == peer.link] for peer in there}
            assert peers.sole == {link: found[0] for link, found in links.items() if len(found) == 1}
            assert peers.everything is max((p for p in there if not p.restricted), key=lambda p: p.handle, default=None)
            assert list(peers._lengths[4]) == sorted({n for p in there for _, n, _ in p.networks}, reverse=True)
            assert channel.next_deadline() == min((at for p in there if (at := _due(p)) is not None), default=None)
            for number in range(30):
                address = ip_address(f"10.8.0.{number}").packed
                owners = [peer for peer in there if address in peer.addresses]
                assert peers.by_address.get(address) is (owners[0] if owners else None) and len(owners) <= 1
