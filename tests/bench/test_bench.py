# SPDX-License-Identifier: BSD-2-Clause
"""The measuring instruments measure: a known delay, a known rate, a table that names what it shows."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import handshake, measure, packets, profiles, report
from tests.bench.many import server as many
from tests.bench.relay import DelayingRelay
from tests.bench.tunnel import ENDS, behind, tunnel, workspace
from tests.interop import pki
from tests.interop.netns import SERVER_WIRE, Wire, run
from tests.interop.peers import Case

DELAY = 0.05


def test_the_relay_keeps_every_datagram_for_its_delay() -> None:
    wire = Wire()
    server = wire.server.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client = wire.client.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    server.bind(("127.0.0.1", 2000))
    server.settimeout(5)
    client.settimeout(5)
    relay = DelayingRelay(wire.server, (SERVER_WIRE, 2001), ("127.0.0.1", 2000), DELAY)
    try:
        begin = time.monotonic()
        for number in range(10):
            client.sendto(bytes([number]), (SERVER_WIRE, 2001))
        for number in range(10):
            data, sender = server.recvfrom(64)
            assert data == bytes([number]), "order is kept"
        arrived = time.monotonic() - begin
        server.sendto(b"back", sender)
        assert client.recv(64) == b"back"
        returned = time.monotonic() - begin
        assert arrived >= DELAY
        assert returned >= 2 * DELAY
    finally:
        relay.close()
        server.close()
        client.close()
        wire.close()


def test_the_wire_carries_single_packets() -> None:
    """What the sender hands over as one batch crosses as the packets it consists of."""
    with workspace() as (wire, _):
        receiver = wire.server.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender = wire.client.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with receiver, sender:
            receiver.bind((SERVER_WIRE, 2000))
            before = received_packets(wire)
            sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
            sender.sendto(bytes(10_000), (SERVER_WIRE, 2000))
            assert received_packets(wire) - before >= 10


def received_packets(wire: Wire) -> int:
    """Packets that the server's end of the wire has received."""
    shown = run("ip", "-n", wire.server.name, "-s", "-j", "link", "show", "wire0")
    count: int = json.loads(shown)[0]["stats64"]["rx"]["packets"]
    return count


def test_the_flood_consists_of_datagrams_of_the_size_that_is_counted() -> None:
    wire = Wire()
    sink = wire.server.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    try:
        sink.bind(("127.0.0.1", packets.PORT))
        sink.setblocking(False)
        wire.server.call(lambda: packets.flood("127.0.0.1", 0.05))
        assert [len(sink.recv(2048)) for _ in range(packets.BATCH)] == [packets.SIZE] * packets.BATCH
    finally:
        sink.close()
        wire.close()


def test_openvpn_gives_every_metric(tmp_path: Path) -> None:
    """A short run of the whole with openvpn at both ends: nothing is missing, and the numbers make sense."""
    material = pki.make()
    case = Case(wrap="tls-crypt")
    baseline = ENDS[0]
    values = {**measure.command_start(baseline.client), **measure.start(baseline, case, material, DELAY)}
    with tunnel(baseline, case, material) as up:
        values |= measure.round_trips(up, 1.0)
        values |= measure.throughput(up, 1.0)
        values |= measure.small_packets(up, 0.5)
        values |= measure.memory(up)
        with behind(up.wire.client) as near:
            forwarded = measure.throughput(replace(up, near=near), 1.0)
    assert values.keys() == measure.METRICS.keys()
    assert all(value > 0 for value in forwarded.values()), forwarded
    assert all(value > 0 for name, value in values.items() if "added" not in name), values
    assert 3 <= values["start to first packet, round trips"] <= 8

    results = report.Results()
    results.add("udp", baseline.name, values)
    report.write(results, tmp_path / "bench.json", 1, 1.0, measure.limits(1.0), [])
    written = json.loads((tmp_path / "bench.json").read_text())
    assert {row["metric"] for row in written["results"]} == measure.METRICS.keys()
    assert all(row["value"] > 0 for row in written["limits"].values())


def test_the_table_shows_medians_and_shares() -> None:
    results = report.Results()
    for value in (100.0, 900.0, 200.0):
        results.add("udp", "openvpn", {"one stream up": value})
    results.add("udp", "ours", {"one stream up": 50.0})
    rows = report.table(results, ["udp"], ["openvpn", "ours"]).splitlines()
    assert rows[1].split() == ["one", "stream", "up", "Mbit/s", "200", "50.0", "(25%)"]


def test_a_typical_profile_is_read_in_milliseconds() -> None:
    assert 0 < profiles.milliseconds(pki.make(), 5) < 100


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_round_trips_are_counted_over_either_transport(proto: str) -> None:
    """openvpn needs four: reset, TLS, keys, settings."""
    found = handshake.measure(ENDS[0], Case(proto=proto, wrap="tls-crypt-v2"), pki.make(), DELAY)
    assert 4 <= found < 9


def test_the_table_of_round_trips_shows_whole_ones() -> None:
    case = handshake.CASES[1]
    rows = handshake.table({(case, "openvpn"): 4.9}, ENDS[:2]).splitlines()
    assert rows[3].split() == ["udp", "none", "TLS", "1.3", "4", "-"]


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_what_many_clients_cost_is_measured_and_shown(proto: str) -> None:
    """A few of them: all come, none is left at the end, and the table has a column for the server."""
    found = many.measure(many.SERVERS[proto == "tcp"], proto, 10, pki.make(), kept=0.1)
    assert found.clients == 10 and found.seconds > 0
    rows = many.table([found]).splitlines()
    assert rows[0].split() == ["10", "clients", "over", proto, "unit", found.server]
    assert len(rows) == 1 + len(many.UNITS) and many.as_json([found])[0]["server"] == found.server
