# SPDX-License-Identifier: BSD-2-Clause
"""The plain client against openvpn: an uplink that moves, few privileges, routes around the tunnel, SIGKILL."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from tests.interop.conftest import Bench
from tests.interop.netns import CLIENT_WIRE, SERVER_WIRE, TUN, run
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config

CAP_NET_ADMIN = 1 << 12
ONLY_NET_ADMIN = ("setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin", "--no-new-privs")
NOTHING = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
MOVED = "192.0.2.77"


def routes(bench: Bench) -> list[str]:
    """The client machine's IPv4 routes, in short."""
    shown = run("ip", "-n", bench.wire.client.name, "-4", "route", "show")
    for noise in ("proto static ", "scope link"):
        shown = shown.replace(noise, "")
    return [" ".join(line.split()) for line in shown.splitlines()]


def capabilities(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")), 16)


def test_an_uplink_that_changes_its_address(bench: Bench) -> None:
    """Soon after the new address is there the client connects anew; nobody waits for ping-restart."""
    _, client = bench.both(Case(), OPENVPN, OURS)
    space = bench.wire.client.name
    time.sleep(1.2)  # the watch has seen how things are
    run("ip", "-n", space, "address", "del", f"{CLIENT_WIRE}/24", "dev", "wire0")
    time.sleep(0.3)
    assert "connecting anew" not in client.log
    start = time.monotonic()
    run("ip", "-n", space, "address", "add", f"{MOVED}/24", "dev", "wire0")
    client.wait_log("the way to the server has changed: connecting anew", within=10)
    assert time.monotonic() - start < 5
    client.wait_log("(?s)up: .*up: ")
    bench.exchange(100_000)


def test_cap_net_admin_is_enough(bench: Bench) -> None:
    bench.server(OPENVPN, server_config(Case(), bench.pki, OPENVPN))
    config = client_config(Case(client_lines=("mark 7", "redirect-gateway def1")), bench.pki, OURS)
    client = bench.client(OURS, config, wrapper=ONLY_NET_ADMIN)
    client.wait_up()
    assert capabilities(client.process.pid) == CAP_NET_ADMIN
    client.wait("routes", lambda: f"0.0.0.0/1 dev {TUN}" in routes(bench))
    bench.exchange(100_000)
    assert client.stop() == ExitCode.OK
    assert routes(bench) == [f"192.0.2.0/24 dev wire0 proto kernel src {CLIENT_WIRE}"]


def test_an_interface_made_for_us_needs_no_privilege(bench: Bench) -> None:
    space = bench.wire.client.name
    run("ip", "-n", space, "tuntap", "add", "dev", TUN, "mode", "tun", "user", "0")
    run("ip", "-n", space, "address", "add", "10.99.0.2/24", "dev", TUN)
    run("ip", "-n", space, "link", "set", TUN, "up")
    bench.server(OPENVPN, server_config(Case(), bench.pki, OPENVPN))
    config = client_config(Case(client_lines=("ifconfig-noexec", "route-noexec")), bench.pki, OURS)
    client = bench.client(OURS, config, wrapper=NOTHING)
    client.wait_log("up: 10.99.0.2/24")
    assert capabilities(client.process.pid) == 0
    bench.exchange(100_000)
    assert client.stop() == ExitCode.OK
    assert bench.wire.client.address(TUN) == "10.99.0.2"


def test_without_privilege_the_reason_is_said(bench: Bench) -> None:
    client = bench.client(OURS, client_config(Case(), bench.pki, OURS), wrapper=NOTHING)
    assert client.wait_exit() == ExitCode.SYSTEM
    client.must_have_said("needs privilege")


def test_routes_with_metrics_and_around_the_tunnel_and_after_a_kill(bench: Bench) -> None:
    """Pushed and own routes; the process is killed; the next one undoes what was left before it begins."""
    space = bench.wire.client.name
    run("ip", "-n", space, "route", "add", "default", "via", SERVER_WIRE, "dev", "wire0")
    before = routes(bench)
    server_lines = (
        'push "route 10.66.0.0 255.255.0.0 vpn_gateway 77"',
        'push "route 198.51.100.0 255.255.255.0 net_gateway"',
        'push "redirect-gateway"',
    )
    case = Case(server_lines=server_lines, client_lines=("route 10.67.0.0 255.255.0.0",))
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    client = bench.client(OURS, client_config(case, bench.pki, OURS))
    client.wait_up()
    wanted = {
        f"default dev {TUN}",
        f"10.66.0.0/16 dev {TUN} metric 77",
        f"10.67.0.0/16 dev {TUN}",
        f"198.51.100.0/24 via {SERVER_WIRE} dev wire0",
    }
    client.wait("routes", lambda: wanted <= set(routes(bench)))
    client.process.send_signal(signal.SIGKILL)
    client.process.wait()
    left = routes(bench)
    assert before != left and not any("default" in line for line in left)

    again = bench.client(OURS, client_config(case, bench.pki, OURS))
    again.wait_log("an earlier client ended without cleaning up")
    again.wait_up()
    again.wait("routes", lambda: wanted <= set(routes(bench)))
    assert again.stop() == ExitCode.OK
    assert routes(bench) == before


@pytest.mark.parametrize("persist", [True, False])
def test_persist_tun_keeps_the_routes_while_reconnecting(bench: Bench, persist: bool) -> None:
    case = Case(
        server_lines=('push "redirect-gateway def1"', "explicit-exit-notify 2"),
        client_lines=("connect-retry 1 1", "server-poll-timeout 2"),
    )
    server = bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    config = client_config(case, bench.pki, OURS)
    client = bench.client(OURS, config if persist else config.replace("persist-tun\n", ""))
    client.wait_up()
    client.wait("routes", lambda: f"0.0.0.0/1 dev {TUN}" in routes(bench))
    server.stop(signal.SIGINT)
    client.wait_log("down: ")
    client.wait_log("(?s)down: .*connecting to")
    assert (f"0.0.0.0/1 dev {TUN}" in routes(bench)) == persist
    assert client.stop() == ExitCode.OK
    assert not any(TUN in line for line in routes(bench))
