# SPDX-License-Identifier: BSD-2-Clause
"""Many clients with frames: who is taken for whom, what goes where, and what no client can do to the others."""

from __future__ import annotations

import random

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.dataplane.ethernet import switch as module
from qubes_miragevpn.dataplane.ethernet.channel import SwitchedChannel
from qubes_miragevpn.dataplane.ethernet.switch import AGE, OWN_AGE, SETTLED, TAP, Switch, SwitchRules
from qubes_miragevpn.dataplane.inband import OCC_EXIT, PING
from qubes_miragevpn.dataplane.interface import PeerExited, PeerLimits
from qubes_miragevpn.dataplane.mss import clamp
from tests.unit.dataplane.packets import HERE, data_keys, far_end, tcp_packet, wire

EVERYBODY, SOME = b"\xff" * 6, bytes.fromhex("01005e0000fb")
OWN, HOST = bytes.fromhex("02ff00000001"), bytes.fromhex("02ee00000001")  # the TAP's, and somebody's behind it
LIMITS = PeerLimits(ethernet=True, mss4=1000)


def mac(client: int, n: int = 0) -> bytes:
    return bytes([2, client, 0, 0]) + n.to_bytes(2, "big")


def frame(source: bytes, destination: bytes, content: bytes = b"\x88\xb5" + bytes(46)) -> bytes:
    return destination + source + content


class Clients:
    """A server with clients 1, 2 and 3; what each sends and gets is in plain text here."""

    def __init__(self, *, together: bool = True, rules: SwitchRules | None = None, number: int = 3) -> None:
        self.switch = Switch(rules or SwitchRules())
        self.switch.own(OWN)
        self.server = SwitchedChannel(self.switch, client_to_client=together)
        self.ends = {n: far_end(limits=LIMITS) for n in range(1, number + 1)}
        self.now = 1000.0
        for n in self.ends:
            self.server.add_peer(n, n, HERE, n, LIMITS)
            self.server.install_key(n, 0, data_keys(), 100.0)
            self.server.activate_key(n, 0, 100.0)

    def _read(self, out: list[tuple[int, object, bytes]]) -> dict[int, list[bytes]]:
        got: dict[int, list[bytes]] = {}
        for link, _, packet in out:
            inner = self.ends[link].receive(1, None, packet, self.now)
            assert inner is not None
            got.setdefault(link, []).append(inner)
        self.server.outbox.clear()
        return got

    def sends(self, client: int, inner: bytes) -> dict[int, list[bytes]]:
        """Who gets what of it; 0 is the TAP."""
        tap = self.server.receive(client, None, wire(self.ends[client], inner), self.now)
        return ({0: [tap]} if tap is not None else {}) | self._read(list(self.server.outbox))

    def from_tap(self, inner: bytes) -> dict[int, list[bytes]]:
        last = self.server.send(inner, self.now)
        return self._read([*self.server.outbox, *([] if last is None else [last])])

    def dropped(self, client: int) -> int:
        return self.server.counters(client).dropped_other


def everywhere(inner: bytes, *places: int) -> dict[int, list[bytes]]:
    return {place: [inner] for place in places}


@pytest.mark.parametrize("together", [True, False])
def test_where_frames_go(together: bool) -> None:
    scene = Clients(together=together)
    for destination in (EVERYBODY, SOME):
        asks = frame(mac(1), destination)
        assert scene.sends(1, asks) == everywhere(asks, *((0, 2, 3) if together else (0,)))
    answers = frame(mac(2), mac(1))
    assert scene.sends(2, answers) == everywhere(answers, 1 if together else 0), "a bridge may give it back or not"
    for destination in (mac(9), HOST, OWN):
        away = frame(mac(1), destination)
        assert scene.sends(1, away) == everywhere(away, 0), "whoever is not known is at the server's side"
    to_itself = frame(mac(1), mac(1))
    assert scene.sends(1, to_itself) == ({} if together else everywhere(to_itself, 0))


def test_where_the_taps_frames_go() -> None:
    scene = Clients(together=False)
    scene.sends(1, frame(mac(1), EVERYBODY))
    for destination, places in ((mac(1), (1,)), (mac(2), ()), (HOST, ()), (OWN, ()), (EVERYBODY, (1, 2, 3))):
        inner = frame(HOST, destination)
        assert scene.from_tap(inner) == everywhere(inner, *places)
    assert scene.server.dropped_unknown == 3


def test_a_client_without_a_key_yet_gets_nothing() -> None:
    scene = Clients(together=True)
    scene.server.retire_key(3, 0)
    asks = frame(mac(1), EVERYBODY)
    assert scene.sends(1, asks) == everywhere(asks, 0, 2) and scene.dropped(3) == 0


@pytest.mark.parametrize("source", [mac(2), HOST, OWN, EVERYBODY, SOME, bytes(6)])
def test_nobody_is_robbed(source: bytes) -> None:
    scene = Clients()
    scene.sends(2, frame(mac(2), EVERYBODY))
    scene.from_tap(frame(HOST, EVERYBODY))
    assert scene.sends(1, frame(source, mac(3))) == {} and scene.dropped(1) == 1
    for destination, place in ((mac(2), 2), (HOST, 0), (OWN, 0)):
        inner = frame(mac(1), destination)
        assert scene.sends(1, inner) == everywhere(inner, place)


def test_what_nobody_uses_any_more_may_move() -> None:
    scene = Clients()
    scene.sends(2, frame(mac(7), EVERYBODY))
    scene.from_tap(frame(HOST, EVERYBODY))
    scene.now += AGE - 1
    assert scene.sends(1, frame(mac(7), OWN)) == {}
    scene.now += 1
    assert scene.sends(1, frame(mac(7), OWN)) and scene.switch.holder(mac(7)) == 1
    assert not scene.sends(1, frame(HOST, OWN)), "the server's side is waited for longer"
    scene.now += OWN_AGE
    assert scene.sends(1, frame(HOST, OWN)) and not scene.sends(1, frame(OWN, EVERYBODY)), "and its own side for ever"


def test_the_servers_side_takes_what_moved_there_but_no_echo() -> None:
    scene = Clients()
    scene.sends(1, frame(mac(1), EVERYBODY))
    scene.now += SETTLED / 2
    assert scene.from_tap(frame(mac(1), EVERYBODY)) and scene.switch.holder(mac(1)) == 1, "a bridge gave it back"
    scene.now += SETTLED
    scene.from_tap(frame(mac(1), EVERYBODY))
    assert scene.switch.holder(mac(1)) == TAP and not scene.sends(1, frame(mac(1), EVERYBODY))


def test_a_client_that_goes_leaves_nothing() -> None:
    scene = Clients()
    for n in range(5):
        scene.sends(1, frame(mac(1, n), EVERYBODY))
    scene.server.remove_peer(1)
    assert len(scene.switch) == 0 and scene.sends(2, frame(mac(1, 3), EVERYBODY))
    scene.server.add_peer(1, 1, HERE, 1, LIMITS)
    assert scene.from_tap(frame(HOST, mac(1, 2))) == {}


def test_the_table_is_bounded_for_each_client(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Clients(rules=SwitchRules(addresses=4))
    for n in range(50):
        scene.sends(1, frame(mac(1, n), EVERYBODY))
    assert len(scene.switch) == 4 and scene.dropped(1) == 46
    scene.now += AGE
    assert scene.sends(1, frame(mac(1, 60), EVERYBODY)) and len(scene.switch) == 4, "in the place of one that aged"
    assert scene.switch.holder(mac(1, 0)) == TAP, "which was the oldest"
    assert scene.sends(2, frame(mac(2), EVERYBODY))


def test_the_table_is_bounded_in_all_and_everybody_has_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 20)
    monkeypatch.setattr(module, "FEW", 3)
    table = Switch(SwitchRules(addresses=256))
    for client in range(10):
        for n in range(100):
            try:
                table.from_client(client, frame(mac(client, n), EVERYBODY), 5.0)
            except PeerError:
                assert n >= 3
    assert len(table) <= 20 + 2 * 3 * 10


def test_the_servers_side_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OF_OURS", 8)
    table = Switch(SwitchRules())
    for n in range(100):
        table.from_tap(frame(mac(0, n), EVERYBODY), 5.0)
    assert len(table) == 8 and table.holder(mac(0, 99)) == TAP


def test_nor_does_it_grow_by_what_it_takes_from_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody both here and there could else have his client's place freed, and used, again and again."""
    monkeypatch.setattr(module, "MOST_OF_OURS", 8)
    table = Switch(SwitchRules(addresses=1))
    for n in range(100):
        now = n * (SETTLED + 1)
        table.from_client(1, frame(mac(1, n), EVERYBODY), now)
        table.from_tap(frame(mac(1, n), EVERYBODY), now + SETTLED)
    assert len(table) == 8 and table.holder(mac(1, 99)) == TAP


def test_a_flood_for_everybody_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COPIES", 30.0)
    scene = Clients()
    asks = frame(mac(1), EVERYBODY)
    got = [scene.sends(1, asks) for _ in range(50)]
    assert sum(2 in each for each in got) == 10 and all(0 in each for each in got), "thirty copies, of three each"
    assert 1 in scene.sends(2, frame(mac(2), EVERYBODY)), "the others' are not"
    scene.now += 1
    assert 2 in scene.sends(1, asks)


@pytest.mark.parametrize("last", range(18))
def test_what_no_bridge_passes_on(last: int) -> None:
    scene = Clients()
    group = bytes.fromhex("0180c20000") + bytes([last])
    assert bool(scene.sends(1, frame(mac(1), group))) is (last > 15)
    assert bool(scene.from_tap(frame(HOST, group))) is (last > 15)


def test_sizes() -> None:
    scene = Clients(rules=SwitchRules(largest=100))
    assert scene.sends(1, frame(mac(1), EVERYBODY, bytes(88)))
    for content in (bytes(89), bytes(2000)):
        assert not scene.sends(1, frame(mac(1), EVERYBODY, content)) and not scene.from_tap(
            frame(HOST, EVERYBODY, content)
        )
    assert scene.from_tap(b"\xff" * 13) == {} and scene.sends(1, b"\xff" * 13) == {}


def test_tags_go_through_and_syns_are_clamped() -> None:
    scene = Clients()
    tagged = frame(mac(1), EVERYBODY, b"\x81\0\0\x07\x08\0" + bytes(46))
    assert scene.sends(1, tagged) == everywhere(tagged, 0, 2, 3)
    syn = tcp_packet("10.0.0.1", "10.0.0.2", b"\x02\x04\x05\xb4")
    inner = frame(mac(1), EVERYBODY, b"\x08\0" + syn)
    assert scene.sends(1, inner)[2] == [inner[:14] + clamp(syn, 1000, 0)] != [inner]


def test_messages_are_no_frames() -> None:
    scene = Clients()
    assert scene.sends(1, PING) == {} and scene.sends(1, OCC_EXIT) == {}
    assert PeerExited(1) in scene.server.events and len(scene.switch) == 0


def test_by_dice() -> None:
    """Whatever is sent: every address has one holder, and what a client gets was not its own."""
    dice = random.Random(3)
    scene = Clients(rules=SwitchRules(addresses=6))
    sources = [mac(n, k) for n in range(4) for k in range(4)] + [OWN, HOST, EVERYBODY]
    for _ in range(3000):
        scene.now += dice.choice((0.0, 0.1, 3.0, 400.0))
        sender = dice.randrange(4)
        inner = frame(dice.choice(sources), dice.choice(sources), dice.randbytes(dice.randrange(60)))
        got = scene.sends(sender, inner) if sender else scene.from_tap(inner)
        assert sender not in got, "nobody gets his own"
        table = scene.switch
        assert all(address in table._seen[holder] for address, holder in table._holder.items())
        assert sum(map(len, table._seen.values())) == len(table) and OWN not in table._holder
