# SPDX-License-Identifier: BSD-2-Clause
"""A peer that moves to another address, and everything that must not move it."""

from __future__ import annotations

import pytest

from qubes_miragevpn.dataplane.interface import NO_PEER_ID, Floated, KeyInUse, PeerLimits, SockAddr
from qubes_miragevpn.dataplane.reference import DataChannel
from tests.unit.dataplane.packets import AES, ELSEWHERE, HERE, THERE, client, data_keys, far_end, ip_packet, wire

INNER = ip_packet("10.8.0.2", "198.51.100.7", b"payload")
FLOATS = PeerLimits(floats=True)


def place(channel: DataChannel) -> SockAddr:
    return channel._peers.by_handle[1].endpoint


@pytest.mark.parametrize("suite", [AES, "AES-256-CBC"])
def test_an_authentic_packet_moves_the_peer(suite: str) -> None:
    here, there = client(suite), far_end(suite, limits=FLOATS)
    assert there.receive(1, ELSEWHERE, wire(here, INNER), 100.0) == INNER
    assert there.events == [Floated(1, ELSEWHERE), KeyInUse(1, 0)]
    outgoing = there.send(INNER, 100.0)
    assert outgoing is not None and outgoing[1] == ELSEWHERE
    assert there.receive(1, ELSEWHERE, wire(here, INNER), 100.0) == INNER
    assert there.receive(1, THERE, wire(here, INNER), 100.0) == INNER  # and back
    assert there.events[2:] == [Floated(1, THERE)]


def test_nothing_else_moves_it() -> None:
    """A forgery, a replay, an unknown key, an empty packet, port 0, DATA_V1 where that could be anybody's."""
    here, there = client(), far_end(limits=FLOATS)
    first, fresh = wire(here, INNER), wire(here, INNER)
    assert there.receive(1, THERE, first, 100.0) == INNER
    there.events.clear()
    forged = fresh[:-1] + bytes([fresh[-1] ^ 1])
    for packet in (forged, first, b"\x49" + fresh[1:], fresh[:24]):
        assert there.receive(1, ELSEWHERE, packet, 100.0) is None
    assert there.receive(1, ("203.0.113.9", 0), fresh, 100.0) is None
    assert place(there) == THERE and there.events == []
    old_here, old_there = client(peer_id=NO_PEER_ID), far_end(peer_id=NO_PEER_ID, limits=FLOATS)
    old_there.add_peer(2, 1, ("203.0.113.77", 7), NO_PEER_ID, FLOATS)
    assert old_there.receive(1, ELSEWHERE, wire(old_here, INNER), 100.0) is None
    assert place(old_there) == THERE


def test_whoever_is_alone_on_the_link_moves_without_a_peer_id_too() -> None:
    here, there = client(peer_id=NO_PEER_ID), far_end(peer_id=NO_PEER_ID, limits=FLOATS)
    packet = wire(here, INNER)
    assert there.receive(1, ELSEWHERE, packet[:-1] + bytes([packet[-1] ^ 1]), 100.0) is None
    assert place(there) == THERE and there.receive(1, ELSEWHERE, packet, 100.0) == INNER
    assert place(there) == ELSEWHERE


def test_without_the_limit_there_is_no_float() -> None:
    here, there = client(), far_end()
    assert there.receive(1, ELSEWHERE, wire(here, INNER), 100.0) is None
    assert there.dropped_unknown == 1 and place(there) == THERE


def test_not_onto_another_peers_address_nor_across_links() -> None:
    here = client(peer_id=1)
    there = DataChannel()
    for handle, endpoint in ((1, THERE), (2, ELSEWHERE)):
        there.add_peer(handle, 1, endpoint, handle, FLOATS)
        there.install_key(handle, 0, data_keys(reverse=True, seed=handle), 100.0)
    assert there.receive(1, ELSEWHERE, wire(here, INNER), 100.0) is None
    assert there.receive(2, ("203.0.113.1", 5), wire(here, INNER), 100.0) is None
    assert place(there) == THERE and there.dropped_unknown == 2
    assert there.receive(1, HERE, wire(here, INNER), 100.0) == INNER
    there.remove_peer(2)
    assert there.receive(1, ELSEWHERE, wire(here, INNER), 100.0) == INNER
    assert place(there) == ELSEWHERE


def test_a_peer_id_of_another_peer_with_ones_own_key() -> None:
    here = client(peer_id=2)
    there = DataChannel()
    for handle, endpoint in ((1, THERE), (2, ELSEWHERE)):
        there.add_peer(handle, 1, endpoint, handle, FLOATS)
        there.install_key(handle, 0, data_keys(reverse=True, seed=handle), 100.0)
    assert there.receive(1, THERE, wire(here, INNER), 100.0) is None  # where peer 1 is, but said to be from peer 2
    assert there.receive(1, HERE, wire(here, INNER), 100.0) is None
    assert (place(there), there.counters(2).dropped_auth) == (THERE, 1)
