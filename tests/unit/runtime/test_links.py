# SPDX-License-Identifier: BSD-2-Clause
"""UDP links: errors that pass, datagrams sent and read many at a time. (Streams are played in test_pump.)"""

from __future__ import annotations

import errno
import random
import socket
from typing import Any

import pytest

from qubes_miragevpn.runtime.sockets.links import LinkBroken, RelayedUdpLink, UdpLink, _runs
from tests.unit.dataplane.packets import HERE, THERE


def udp_pair() -> tuple[socket.socket, socket.socket]:
    """Two UDP sockets on the loopback, connected to each other."""
    pair = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for sock in pair:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    pair[0].connect(pair[1].getsockname())
    pair[1].connect(pair[0].getsockname())
    return pair


class Refusing:
    """A socket that answers everything with one error; `runs_only`: it takes single datagrams."""

    def __init__(self, number: int, *, runs_only: bool = False) -> None:
        self._number = number
        self._runs_only = runs_only
        self.calls: list[str] = []

    def setsockopt(self, *_: object) -> None:
        pass

    def _one(self, packet: bytes, *_: object) -> int:
        self.calls.append("one")
        if not self._runs_only:
            raise OSError(self._number, "refused")
        return len(packet)

    def _run(self, *_: object) -> int:
        self.calls.append("run")
        raise OSError(self._number, "refused")

    send = sendto = _one
    sendmsg = recvmsg = _run


def refusing(number: int, remote: Any) -> UdpLink:
    return UdpLink(Refusing(number), remote)  # type: ignore[arg-type]


@pytest.mark.parametrize("remote", [HERE, None])
@pytest.mark.parametrize(
    "number", [errno.ENOBUFS, errno.EMSGSIZE, errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM]
)
def test_udp_errors_cost_packets_only(number: int, remote: Any) -> None:
    link = refusing(number, remote)
    assert link.send([(HERE, b"x")] * 3) == 3
    link.send_control(HERE, b"x")
    assert list(link.receive()) == []
    assert not link.blocked()


@pytest.mark.parametrize("remote", [HERE, None])
def test_a_full_udp_socket_blocks_until_it_is_writable(remote: Any) -> None:
    link = refusing(errno.EAGAIN, remote)
    assert link.send([(HERE, b"x")] * 3 + [(HERE, b"longer")] * 2) == 5
    assert link.blocked()
    link.flush()
    assert not link.blocked()


@pytest.mark.parametrize("remote", [HERE, None])
def test_a_socket_that_is_gone_is_the_end(remote: Any) -> None:
    link = refusing(errno.EBADF, remote)
    for attempt in (
        lambda: link.send([(HERE, b"x")]),
        lambda: link.send([(HERE, b"x")] * 2),
        lambda: link.send_control(HERE, b"x"),
        link.receive,
    ):
        with pytest.raises(LinkBroken):
            attempt()


@pytest.mark.parametrize(
    ("number", "tries"), [(errno.EIO, 1), (errno.EINVAL, 1), (errno.EMSGSIZE, 2), (errno.ENETUNREACH, 2)]
)
def test_a_kernel_that_cannot_segment_gets_single_datagrams(number: int, tries: int) -> None:
    sock = Refusing(number, runs_only=True)
    link = UdpLink(sock, HERE)  # type: ignore[arg-type]
    for _ in range(2):
        assert link.send([(HERE, b"xx")] * 3) == 0
    assert sock.calls.count("one") == 6
    assert sock.calls.count("run") == tries


def test_runs_are_what_the_kernel_takes_in_one_call() -> None:
    """Random batches: nothing lost, nothing reordered, and every run as UDP_SEGMENT wants it."""
    rng = random.Random(11)
    for _ in range(300):
        packets = [
            (rng.choice((HERE, THERE)) if rng.random() < 0.1 else HERE, bytes(rng.choice((60, 1400, 1424, 16000))))
            for _ in range(rng.randrange(1, 150))
        ]
        runs = list(_runs(packets))
        assert [(endpoint, packet) for endpoint, run in runs for packet in run] == packets
        for _, run in runs:
            assert {len(packet) for packet in run[:-1]} in (set(), {len(run[0])})
            assert len(run[-1]) <= len(run[0])
            assert len(run) <= 64 and sum(map(len, run)) <= 65000
    assert len(list(_runs([(HERE, bytes(1400))] * 40 + [(HERE, bytes(80))]))) == 1


@pytest.mark.parametrize("connected", [True, False])
def test_many_datagrams_through_real_sockets(connected: bool) -> None:
    """Whatever the kernel puts together on the way comes out as it was sent."""
    left, right = udp_pair()
    if connected:
        sender, receiver = UdpLink(left, right.getsockname()), UdpLink(right, left.getsockname())
    else:
        bare = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bare.bind(("127.0.0.1", 0))
        bare.setblocking(False)
        left.connect(bare.getsockname())
        sender, receiver = UdpLink(left, bare.getsockname()), UdpLink(bare, None)
    sizes = [1424] * 30 + [80] + [1424] * 3 + [500, 500, 1, 1, 900]
    packets = [bytes([n]) * size for n, size in enumerate(sizes)]
    assert sender.send([(HERE, packet) for packet in packets]) == 0
    got = []
    while len(got) < len(packets):
        got += receiver.receive()
    assert got == [(packet, None if connected else left.getsockname()) for packet in packets]
    for sock in (left, right, receiver.sock):
        sock.close()


def test_datagrams_of_a_relay_are_in_envelopes_of_the_server_s() -> None:
    header = b"\0\0\0\1\xc6\x33\x64\7\1\xbb"
    ours, theirs = udp_pair()
    link = RelayedUdpLink(ours, theirs.getsockname(), header)
    packets = [(theirs.getsockname(), bytes([n]) * 100) for n in range(3)]
    assert link.send(packets) == 0
    link.send_control(theirs.getsockname(), b"control")
    assert [theirs.recv(2000) for _ in range(4)] == [*(header + packet for _, packet in packets), header + b"control"]
    fragment, stranger = b"\0\0\1" + header[3:] + b"a fragment", header[:4] + b"\1\2\3\4\0\x35other"
    for data in (header + b"good", fragment, stranger, b"", header):
        theirs.send(data)
    assert [data for data, _ in link.receive()] == [b"good", b""]
    ours.close()
    theirs.close()
