# SPDX-License-Identifier: BSD-2-Clause
"""Static key mode: one key of a file at both ends, no handshake. openvpn is the other end."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from tests.interop.conftest import Bench
from tests.interop.netns import CLIENT_WIRE, SERVER_TUNNEL, SERVER_WIRE, TUN
from tests.interop.peers import OPENVPN, OURS, Peer
from tests.interop.traffic import MEGABYTE, connect, transfer

CLIENT_TUNNEL = "10.99.0.2"


@dataclass(frozen=True)
class Row:
    """One combination of what both ends must have alike."""

    cipher: str = "AES-256-CBC"
    digest: str = "SHA256"
    direction: bool = True
    proto: str = "udp"
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        direction = "directed" if self.direction else "alike"
        return "-".join((self.cipher, self.digest, direction, self.proto, *(line.split()[0] for line in self.more)))


ROWS = [
    Row(),
    Row("AES-128-CBC", "SHA1", direction=False),
    Row("AES-192-CBC", "SHA512"),
    Row(proto="tcp"),
    Row(more=("fragment 1200", "mssfix 1200")),
]


def _config(bench: Bench, row: Row, *, theirs: bool, key: str = "", more: tuple[str, ...] = ()) -> str:
    """`theirs`: openvpn's end, which waits on TCP; both ends have a known port on UDP."""
    own, other = (SERVER_TUNNEL, CLIENT_TUNNEL) if theirs else (CLIENT_TUNNEL, SERVER_TUNNEL)
    lines = [
        f"dev {TUN}", "dev-type tun", "verb 3", f"cipher {row.cipher}", f"auth {row.digest}",
        f"ifconfig {own} {other}", f"keepalive 2 {60 if theirs else 8}", *row.more, *more,
        f"proto {'tcp4-server' if theirs else 'tcp4-client'}" if row.proto == "tcp" else "proto udp4",
    ]  # fmt: skip
    if not theirs:
        # openvpn demands it from 2.7 on, and does not know it before
        lines += [f"remote {SERVER_WIRE} 1194", "allow-deprecated-insecure-static-crypto"]
    else:
        lines.append("disable-dco")
        if row.proto == "udp":
            lines.append(f"remote {CLIENT_WIRE} 1194")
    if row.direction:
        lines.append(f"key-direction {int(not theirs)}")
    return "\n".join(lines) + f"\n<secret>\n{(key or bench.pki.static).strip()}\n</secret>\n"


def _other_end(bench: Bench, row: Row) -> Peer:
    """Start openvpn; it says that it is complete only when somebody answers, so wait for its socket instead."""
    peer = Peer("openvpn", OPENVPN, "server", bench.wire.server, _config(bench, row, theirs=True), bench.folder)
    bench.peers.insert(0, peer)
    peer.wait_log("Listening for incoming TCP" if row.proto == "tcp" else "UDPv4 link remote")
    return peer


def _exchange(bench: Bench, size: int) -> None:
    far, near = connect(bench.wire.server, SERVER_TUNNEL, bench.wire.client)
    with far, near:
        transfer(near, far, size).check()
        transfer(far, near, size).check()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_tunnel_without_a_handshake(bench: Bench, row: Row) -> None:
    server = _other_end(bench, row)
    client = bench.client(OURS, _config(bench, row, theirs=False))
    client.wait_log(f"up: {CLIENT_TUNNEL}.*static key, data {row.cipher}")
    _exchange(bench, MEGABYTE)
    assert "Authenticate/Decrypt packet error" not in server.log
    assert client.stop() == ExitCode.OK


@pytest.mark.parametrize("row", [Row(), Row(proto="tcp")], ids=str)
def test_our_end_waits_for_openvpn(bench: Bench, row: Row) -> None:
    """Without `remote` on UDP, as ``tcp-server`` on TCP: openvpn comes to us."""
    server = _config(bench, row, theirs=True).replace(f"remote {CLIENT_WIRE} 1194\n", "").replace("disable-dco\n", "")
    ours = bench.client(OURS, server + "allow-deprecated-insecure-static-crypto\n")
    assert "remote" not in server
    time.sleep(1.0)
    theirs = _config(bench, row, theirs=False).replace("allow-deprecated-insecure-static-crypto\n", "disable-dco\n")
    theirs = theirs.replace(SERVER_WIRE, CLIENT_WIRE)
    other = Peer("openvpn", OPENVPN, "client", bench.wire.server, theirs, bench.folder)
    bench.peers.append(other)
    ours.wait_log(f"up: {SERVER_TUNNEL}")
    far, near = connect(bench.wire.server, CLIENT_TUNNEL, bench.wire.client)
    with far, near:
        transfer(near, far, MEGABYTE).check()
        transfer(far, near, MEGABYTE).check()
    assert ours.stop() == ExitCode.OK


def test_either_end_may_begin_anew(bench: Bench) -> None:
    """Ours is restarted, openvpn is restarted: the numbering begins anew with a newer time, and is taken."""
    row = Row()
    config = _config(bench, row, theirs=False, more=("connect-retry 1 1",))
    _other_end(bench, row)
    client = bench.client(OURS, config)
    client.wait_log("up: ")
    _exchange(bench, 100_000)
    client.kill()
    time.sleep(1.1)  # the time beside the packet ids has seconds
    again = bench.client(OURS, config)
    again.wait_log("up: ")
    _exchange(bench, 100_000)
    bench.peers[0].stop(signal.SIGTERM)
    again.wait_log(r"the other end (fell silent|left)")
    _other_end(bench, row)
    again.wait_log("(?s)up: .*up: ")
    _exchange(bench, 100_000)


def test_what_was_seen_outlives_the_program(bench: Bench) -> None:
    """openvpn goes on with its numbering; a packet of it that was recorded is refused by the next run of ours."""
    row = Row()
    config = _config(bench, row, theirs=False, more=("replay-persist seen",))
    _other_end(bench, row)
    numbers = []
    for _ in range(2):
        client = bench.client(OURS, config)
        client.wait_log("up: ")
        _exchange(bench, 50_000)
        client.stop()
        _, when, number = (bench.folder / "seen").read_text(encoding="ascii").split()
        numbers.append((int(when), int(number)))
        time.sleep(1.1)
    assert numbers[1] > numbers[0] and numbers[0][1] > 10


def test_another_key_lets_nothing_through(bench: Bench) -> None:
    row = Row()
    other = bench.pki.static.replace("0", "f")
    server = _other_end(bench, row)
    client = bench.client(OURS, _config(bench, row, theirs=False, key=other))
    client.wait_log("up: ")
    with pytest.raises(OSError):
        connect(bench.wire.server, SERVER_TUNNEL, bench.wire.client, within=2.0)
    server.wait_log("packet HMAC authentication failed")
    client.stop()


SETTINGS = {
    "alike": ((), ()),
    "tcp": ((), ()),
    "another mtu": (("tun-mtu 1400",), ("'link-mtu' is used inconsistently", "'tun-mtu' is used inconsistently")),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_both_ends_compare_their_settings(bench: Bench, name: str) -> None:
    """openvpn answers our question at once."""
    more, told = SETTINGS[name]
    row = Row(proto="tcp" if name == "tcp" else "udp")
    _other_end(bench, row)
    client = bench.client(OURS, _config(bench, row, theirs=False, more=more))
    client.wait_log("up: ")
    if not more:
        _exchange(bench, 1_000)
    if told:
        client.wait_log(told[-1])
    warned = [line for line in client.log.splitlines() if "local=" in line or "remote=" in line]
    assert len(warned) == len(told), warned
