# SPDX-License-Identifier: BSD-2-Clause
"""Blocks with settings of their own, and options after the file's name, against a real server."""

from __future__ import annotations

import os
import re

from tests.interop.conftest import Bench
from tests.interop.netns import SERVER_WIRE, run
from tests.interop.peers import OPENVPN, OURS, PORT, Case, client_config, server_config


def test_each_block_has_its_own_wrap_and_timeout(bench: Bench) -> None:
    """The first block has another key, so the server is silent; the second has the right one."""
    case = Case(wrap="tls-crypt")
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    plain = client_config(Case(), bench.pki, OURS).replace(f"remote {SERVER_WIRE} {PORT}\n", "")
    blocks = "".join(
        f"<connection>\nremote {SERVER_WIRE} {PORT}\nconnect-timeout 2\n{extra}"
        f"<tls-crypt>\n{key}</tls-crypt>\n</connection>\n"
        for key, extra in ((bench.pki.foreign_static, ""), (bench.pki.static, "tun-mtu 1400\n"))
    )
    client = bench.client(OURS, plain + blocks)
    client.wait_up()
    client.must_have_said("no answer within 2 s")
    bench.exchange(10_000)
    assert client.stop() == 0


def test_the_server_hears_the_values_that_the_profile_tells(bench: Bench) -> None:
    server = bench.server(OPENVPN, server_config(Case(), bench.pki, OPENVPN))
    run("ip", "-n", bench.wire.client.name, "route", "add", "default", "dev", "wire0")
    told = "setenv UV_IPV6 no\npush-peer-info\n"
    bench.client(OURS, client_config(Case(), bench.pki, OURS) + told).wait_up()
    server.wait_log("peer info: UV_IPV6=no")
    hardware = run("ip", "-n", bench.wire.client.name, "-o", "link", "show", "wire0").split("link/ether ")[1].split()[0]
    assert f"peer info: IV_PLAT_VER={os.uname().release}" in server.log and "peer info: IV_SSL=OpenSSL" in server.log
    assert f"peer info: IV_HWADDR={hardware}" in server.log


def test_nothing_is_told_of_the_machine_unasked(bench: Bench) -> None:
    server = bench.server(OPENVPN, server_config(Case(), bench.pki, OPENVPN))
    bench.client(OURS, client_config(Case(), bench.pki, OURS) + "setenv UV_IPV6 no\n").wait_up()
    server.wait_log("peer info: IV_PROTO")
    assert not re.search("IV_HWADDR|IV_PLAT_VER|IV_SSL|UV_", server.log)
