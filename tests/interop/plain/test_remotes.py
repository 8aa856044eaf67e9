# SPDX-License-Identifier: BSD-2-Clause
"""A name with several addresses, of both families: each is tried until one answers. openvpn is at one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import SERVER_WIRE, SERVER_WIRE6
from tests.interop.peers import OPENVPN, OURS, PORT, Case, client_config, server_config

NAME = "several.test"
NOBODY, NOBODY6 = "192.0.2.3", "2001:db8::3"  # more like our own than the server's: asked first (RFC 6724, rule 9)


def hosts(bench: Bench, *addresses: str) -> tuple[str, ...]:
    """A program that runs another one with these addresses for the name: /etc/hosts of a mount namespace of its own."""
    table = bench.folder / "hosts"
    table.write_text("".join(f"{address} {NAME}\n" for address in addresses), encoding="ascii")
    script = bench.folder / "with-hosts"
    script.write_text(f'#!/bin/sh\nmount --bind {table} /etc/hosts && exec "$@"\n', encoding="ascii")
    script.chmod(0o755)
    return ("unshare", "--mount", "--propagation", "private", str(script))


@pytest.mark.parametrize(
    ("family", "addresses"),
    [(4, (NOBODY6, NOBODY, SERVER_WIRE)), (6, (NOBODY6, SERVER_WIRE6))],
    ids=["IPv6 first, then IPv4", "IPv6"],
)
def test_every_address_of_a_name_is_tried(bench: Bench, family: int, addresses: tuple[str, ...]) -> None:
    bench.server(OPENVPN, server_config(Case(family=family), bench.pki, OPENVPN))
    config = client_config(Case(client_lines=("server-poll-timeout 2",)), bench.pki, OURS)
    config = config.replace(f"remote {SERVER_WIRE} {PORT}", f"remote {NAME} {PORT}").replace("proto udp4", "proto udp")
    client = bench.client(OURS, config, wrapper=hosts(bench, *addresses))
    client.wait_up()
    bench.exchange(10_000)
    tried = [line.split("connecting to ")[1].split()[0] for line in client.log.splitlines() if "connecting to" in line]
    assert tried == list(addresses)
    assert Path("/etc/hosts").read_text(encoding="utf-8").count(NAME) == 0
