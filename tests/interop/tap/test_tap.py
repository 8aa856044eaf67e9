# SPDX-License-Identifier: BSD-2-Clause
"""``dev tap``: our client with openvpn's server (routed pool and bridge), both kinds of clients with ours, equals."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import CLIENT_WIRE, SERVER_TUNNEL, SERVER_WIRE, TUN, Namespace, run
from tests.interop.peers import OPENVPN, OURS, Case, Peer, client_config, server_config
from tests.interop.traffic import connect, transfer

CLIENT_TUNNEL = "10.99.0.2"
SIZE = 300_000


def _as_tap(text: str) -> str:
    return text.replace("dev-type tun", "dev-type tap")


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_a_client_of_a_routed_server(bench: Bench, proto: str) -> None:
    case = Case(proto=proto, server_lines=('push "route 10.77.0.0 255.255.0.0"',))
    bench.server(OPENVPN, _as_tap(server_config(case, bench.pki, OPENVPN)))
    client = bench.client(OURS, _as_tap(client_config(case, bench.pki, OURS)))
    assert client.wait_up() == CLIENT_TUNNEL
    bench.exchange(SIZE)
    routes = run("ip", "-n", bench.wire.client.name, "route", "show", "10.77.0.0/16")
    assert f"via {SERVER_TUNNEL} dev {TUN}" in routes


def test_a_client_of_a_bridge(bench: Bench) -> None:
    """The server's TAP is in a bridge, which has the address."""
    case = Case(client_lines=("mssfix 1200",))
    text = _as_tap(server_config(case, bench.pki, OPENVPN)).replace(
        "server 10.99.0.0 255.255.255.0", "server-bridge 10.99.0.1 255.255.255.0 10.99.0.50 10.99.0.60"
    )
    server = Peer("bridge", OPENVPN, "server", bench.wire.server, text, bench.folder)
    bench.peers.append(server)
    server.wait_log("Initialization Sequence Completed")
    there = bench.wire.server.name
    run("ip", "-n", there, "link", "add", "br0", "type", "bridge")
    run("ip", "-n", there, "link", "set", TUN, "master", "br0", "up")
    run("ip", "-n", there, "address", "add", f"{SERVER_TUNNEL}/24", "dev", "br0")
    run("ip", "-n", there, "link", "set", "br0", "up")
    client = bench.client(OURS, _as_tap(client_config(case, bench.pki, OURS)))
    assert client.wait_up() == "10.99.0.50"
    bench.exchange(SIZE)


@pytest.mark.parametrize("kind", ["static", "tls"])
def test_between_two(bench: Bench, kind: str) -> None:
    lines = {}
    for ours in (False, True):
        own, remote = (CLIENT_TUNNEL, SERVER_WIRE) if ours else (SERVER_TUNNEL, CLIENT_WIRE)
        text = f"dev {TUN}\ndev-type tap\nifconfig {own} 255.255.255.0\nremote {remote} 1194\nproto udp4\n"
        text += "keepalive 2 10\nverb 3\n" + ("" if ours else "disable-dco\n")
        if kind == "static":
            text += f"cipher AES-256-CBC\nauth SHA256\n<secret>\n{bench.pki.static.strip()}\n</secret>\n"
            text += "allow-deprecated-insecure-static-crypto\n" if ours else ""
        else:
            identity, role = (bench.pki.client, "tls-client") if ours else (bench.pki.server, "tls-server\ndh none")
            text += f"{role}\nremote-cert-tls {'server' if ours else 'client'}\n<ca>\n{bench.pki.ca.strip()}\n</ca>\n"
            text += f"<cert>\n{identity.certificate.strip()}\n</cert>\n<key>\n{identity.key.strip()}\n</key>\n"
        lines[ours] = text
    other = Peer("other", OPENVPN, "server", bench.wire.server, lines[False], bench.folder)
    bench.peers.append(other)
    other.wait_log("UDPv4 link remote")
    bench.client(OURS, lines[True]).wait_log("tunnel up: ")
    bench.exchange(SIZE)


def _bridge(space: Namespace) -> None:
    """A bridge with addresses, and in it the server's TAP, which is there before the server."""
    for words in (
        f"tuntap add dev {TUN} mode tap", "link add br0 type bridge forward_delay 0",
        f"link set {TUN} master br0", "link set br0 up",
        f"address add {SERVER_TUNNEL}/24 dev br0", "address add fd42:99::1/64 dev br0",
    ):  # fmt: skip
        run("ip", "-n", space.name, *words.split())


BRIDGED = "server-bridge 10.99.0.1 255.255.255.0 10.99.0.50 10.99.0.60"
ROUTED = "server 10.99.0.0 255.255.255.0"


@pytest.mark.time_limit(180)
@pytest.mark.parametrize("bridged", [True, False])
def test_two_clients_of_our_server(bench: Bench, bridged: bool) -> None:
    """Traffic of both families with the server's side and with each other; a broadcast reaches everybody."""
    behind = f"10.99.0.{50 if bridged else 2}"
    text = _as_tap(server_config(Case(), bench.pki, OURS))
    text += f"client-to-client\nroute 10.5.0.0 255.255.0.0 {behind}\n"
    text = text.replace(ROUTED, BRIDGED if bridged else f"{ROUTED}\nserver-ipv6 fd42:99::/64")
    one, two = bench.wire.client, bench.wire.second_client()
    for space in (bench.wire.server, one, two):  # addresses that are tentative for a while cannot be waited at
        run(*space.command("sh", "-c", "for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done"))
    if bridged:
        _bridge(bench.wire.server)
    server = Peer("server", OURS, "server", bench.wire.server, text, bench.folder)
    bench.peers.append(server)
    server.wait_log("listening on")
    addresses = []
    first, second = (OPENVPN, OURS) if bridged else (OURS, OPENVPN)
    for space, identity, kind in ((one, bench.pki.client, first), (two, bench.pki.second_client, second)):
        profile = _as_tap(client_config(Case(), bench.pki, kind, identity=identity))
        peer = Peer(f"client-{space.name[-1]}", kind, "client", space, profile, bench.folder)
        bench.peers.append(peer)
        addresses.append(peer.wait_up())
        if bridged:
            run("ip", "-n", space.name, "address", "add", f"fd42:99::{len(addresses)}0/64", "dev", TUN)
    assert addresses == (["10.99.0.50", "10.99.0.51"] if bridged else ["10.99.0.2", "10.99.0.3"])
    sixes = ["fd42:99::10", "fd42:99::20"] if bridged else ["fd42:99::1000", "fd42:99::1001"]
    here = bench.wire.server
    for address, listener, dialler in (
        (SERVER_TUNNEL, here, one), (addresses[1], two, here), ("fd42:99::1", here, two), (sixes[0], one, here),
        (addresses[0], one, two), (sixes[1], two, one),
    ):  # fmt: skip
        far, near = connect(listener, address, dialler, within=30.0)
        with far, near:
            transfer(near, far, 30_000).check()
    _broadcast(two, (one, here))
    assert f"via {behind} dev {'br0' if bridged else TUN}" in run("ip", "-n", here.name, "route", "show", "10.5.0.0/16")


def test_a_bridge_whose_addresses_are_by_dhcp(bench: Bench) -> None:
    """The server gives none, the client is up without one, and frames go through: here with an address by hand."""
    _bridge(bench.wire.server)
    text = _as_tap(server_config(Case(), bench.pki, OURS)).replace(ROUTED, "server-bridge")
    server = Peer("server", OURS, "server", bench.wire.server, text, bench.folder)
    bench.peers.append(server)
    server.wait_log("listening on .* by DHCP")
    client = bench.client(OPENVPN, _as_tap(client_config(Case(), bench.pki, OPENVPN)))
    client.wait_log("route-gateway dhcp")
    client.wait_log("Initialization Sequence Completed")
    run("ip", "-n", bench.wire.client.name, "link", "set", TUN, "up")
    run("ip", "-n", bench.wire.client.name, "address", "add", "10.99.0.77/24", "dev", TUN)
    bench.exchange(30_000)


def _broadcast(sender: Namespace, others: tuple[Namespace, ...]) -> None:
    """Say something to everybody until all others have heard it."""
    ears = [space.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for space in others]
    mouth = sender.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    for ear in ears:
        ear.bind(("", 5353))
        ear.settimeout(0.2)
    heard: set[socket.socket] = set()
    deadline = time.monotonic() + 30
    while len(heard) < len(ears) and time.monotonic() < deadline:
        mouth.sendto(b"everybody", ("10.99.0.255", 5353))
        for ear in set(ears) - heard:
            with contextlib.suppress(TimeoutError):
                heard |= {ear} if ear.recv(100) == b"everybody" else set()
    for sock in (*ears, mouth):
        sock.close()
    assert len(heard) == len(ears)
