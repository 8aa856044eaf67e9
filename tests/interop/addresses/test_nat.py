# SPDX-License-Identifier: BSD-2-Clause
"""``nat``: a client gets out by the server's other wire, nobody gets in, and nothing stays; not after SIGKILL either.

client ~~~ tunnel ~~~ server wire1 ---- wire0 second machine, which knows the server's address alone
"""

from __future__ import annotations

import signal
import subprocess

from tests.interop.conftest import Bench
from tests.interop.netns import SECOND_CLIENT_WIRE, SERVER_WIRE, run
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config
from tests.interop.traffic import connect, transfer

HERE6, OUTSIDE6 = "2001:db8:9::1", "2001:db8:9::3"
CASE = Case(
    server_lines=(
        "nat wire1", f'push "route {SECOND_CLIENT_WIRE} 255.255.255.255"', "server-ipv6 fd42:99::/64",
        'push "route-ipv6 2001:db8:9::/64"',
    )
)  # fmt: skip


def tables(bench: Bench) -> str:
    return run(*bench.wire.server.command("nft", "list", "tables"))


def forwards(bench: Bench, dev: str) -> bool:
    return run(*bench.wire.server.command("cat", f"/proc/sys/net/ipv4/conf/{dev}/forwarding")).strip() == "1"


def test_out_but_not_in_and_nothing_stays(bench: Bench) -> None:
    outside = bench.wire.second_client()
    run(*bench.wire.server.command("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"))
    for space, dev, address in ((bench.wire.server, "wire1", HERE6), (outside, "wire0", OUTSIDE6)):
        run("ip", "-n", space.name, "address", "add", f"{address}/64", "dev", dev, "nodad")
    config = server_config(CASE, bench.pki, OURS)
    first = bench.server(OURS, config)
    first.wait_log("clients leave by wire1")
    first.kill()
    assert "miragevpn-nat-vpn0" in tables(bench) and forwards(bench, "wire1"), "left by the one that was killed"
    server = bench.server(OURS, config)
    bench.client(OPENVPN, client_config(CASE, bench.pki, OPENVPN)).wait_up()
    for address, shown in ((SECOND_CLIENT_WIRE, SERVER_WIRE), (OUTSIDE6, HERE6)):
        far, near = connect(outside, address, bench.wire.client)
        with far, near:
            assert far.getpeername()[0] == shown
            transfer(near, far, 50_000).check()
            transfer(far, near, 50_000).check()
    for network, via, client in (("10.99.0.0/24", SERVER_WIRE, "10.99.0.2"), ("fd42:99::/64", HERE6, "fd42:99::1000")):
        run("ip", "-n", outside.name, "route", "add", network, "via", via)
        ping = subprocess.run(outside.command("ping", "-c1", "-W1", client), capture_output=True, check=False)
        assert ping.returncode == 1, "nobody outside begins a connection to a client"
    assert not forwards(bench, "wire0"), "nothing else is forwarded"
    server.wait_log("NAT that a server left behind is removed")
    assert server.stop(signal.SIGTERM) == 0
    assert "miragevpn" not in tables(bench) and not forwards(bench, "wire1")
    assert run(*bench.wire.server.command("cat", "/proc/sys/net/ipv6/conf/all/forwarding")).strip() == "0"
