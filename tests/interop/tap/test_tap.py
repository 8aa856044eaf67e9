# SPDX-License-Identifier: BSD-2-Clause
"""``dev tap``: our client with openvpn's server (routed pool and bridge), and both kinds of tunnels between two."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import CLIENT_WIRE, SERVER_TUNNEL, SERVER_WIRE, TUN, run
from tests.interop.peers import OPENVPN, OURS, Case, Peer, client_config, server_config

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
