# SPDX-License-Identifier: BSD-2-Clause
"""Addresses of both families that a server gives, and traffic of both."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import run
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config
from tests.interop.traffic import connect, transfer

TUNNEL6 = Case(server_lines=("server-ipv6 fd42:99::/64",))


SPELLED = """mode server
tls-server
ifconfig 10.99.0.1 255.255.255.0
ifconfig-pool 10.99.0.9 10.99.0.20 255.255.255.0
push "topology subnet"
push "route-gateway 10.99.0.1"
ifconfig-ipv6 fd42:99::1/64 fd42:99::2
ifconfig-ipv6-pool fd42:99::1000/64
"""


@pytest.mark.parametrize(
    ("server", "client", "spelled"),
    [(OURS, OPENVPN, True), (OPENVPN, OURS, True), (OPENVPN, OURS, False), (OURS, OURS, False)],
)
def test_both_families(bench: Bench, server: str, client: str, spelled: bool) -> None:
    """In their short form, and in what that stands for."""
    if spelled:
        text = server_config(Case(), bench.pki, server).replace("server 10.99.0.0 255.255.255.0\n", SPELLED)
        bench.server(server, text)
        bench.client(client, client_config(Case(), bench.pki, client)).wait_up()
    else:
        bench.both(TUNNEL6, server, client)
    space = bench.wire.client
    assert f"inet 10.99.0.{'9' if spelled else '2'}/24" in run("ip", "-n", space.name, "-4", "addr", "show", "vpn0")
    assert "inet6 fd42:99::1000/64" in run("ip", "-n", space.name, "-6", "addr", "show", "vpn0")
    bench.exchange(100_000)
    far, near = connect(bench.wire.server, "fd42:99::1", space)
    with far, near:
        transfer(near, far, 100_000).check()
        transfer(far, near, 100_000).check()


SINGLE = """ifconfig-push 10.99.0.77 255.255.255.0
ifconfig-ipv6-push fd42:99::77/64
iroute 10.5.0.0 255.255.0.0
iroute-ipv6 fd05::/64
push "route 10.66.0.0 255.255.0.0"
"""
BEHIND = ("10.5.0.1", "fd05::1")


@pytest.mark.parametrize(("server", "client"), [(OURS, OPENVPN), (OPENVPN, OURS)])
def test_a_client_with_a_file_and_networks_behind_it(bench: Bench, server: str, client: str) -> None:
    """The same lines make openvpn's server do the same."""
    folder = bench.folder / "ccd"
    folder.mkdir()
    (folder / "qube-one").write_text(SINGLE)
    routes = ("client-config-dir ccd", "route 10.5.0.0 255.255.0.0", "route-ipv6 fd05::/64")
    bench.both(Case(server_lines=(*TUNNEL6.server_lines, *routes)), server, client)
    space = bench.wire.client
    shown = run("ip", "-n", space.name, "addr", "show", "vpn0")
    assert "inet 10.99.0.77/24" in shown and "inet6 fd42:99::77/64" in shown
    assert "10.66.0.0/16" in run("ip", "-n", space.name, "route")
    for address in BEHIND:
        run("ip", "-n", space.name, "addr", "add", address, "dev", "lo", *(("nodad",) if ":" in address else ()))
        far, near = connect(space, address, bench.wire.server)
        with far, near:
            transfer(near, far, 50_000).check()
            transfer(far, near, 50_000).check()


def test_a_client_that_is_disabled_is_told(bench: Bench) -> None:
    folder = bench.folder / "ccd"
    folder.mkdir()
    (folder / "qube-one").write_text("disable\n")
    case = Case(server_lines=("client-config-dir ccd",))
    server = bench.server(OURS, server_config(case, bench.pki, OURS))
    client = bench.client(OPENVPN, client_config(case, bench.pki, OPENVPN))
    client.wait_exit()
    client.must_have_said("AUTH_FAILED")
    server.wait_log("is refused: its file says 'disable'")
