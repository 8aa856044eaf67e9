# SPDX-License-Identifier: BSD-2-Clause
"""Our client and our server, each against openvpn, over every transport, wrapping, TLS version, cipher and key source.

One table; every row makes a tunnel, sends data both ways and asks openvpn's log whether it was done the row's way.
"""

from __future__ import annotations

import re
from itertools import product

import pytest

from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, Case, Peer

CROSS = [
    Case(proto=proto, wrap=wrap, tls=tls)
    for proto, wrap, tls in product(("udp", "tcp"), ("none", "tls-auth", "tls-crypt", "tls-crypt-v2"), ("1.2", "1.3"))
]
FURTHER = [
    Case(proto="udp", wrap="tls-crypt", cipher="AES-128-GCM"),
    Case(proto="tcp", wrap="tls-crypt", cipher="AES-128-GCM", tls="1.2"),
    Case(proto="udp", wrap="tls-crypt", cipher="CHACHA20-POLY1305"),
    Case(proto="tcp", wrap="none", cipher="CHACHA20-POLY1305"),
    Case(proto="udp", wrap="tls-auth-both"),
    Case(proto="udp", wrap="tls-auth", digest="SHA256"),
    Case(proto="tcp", wrap="tls-auth", digest="SHA512"),
    Case(proto="udp", wrap="tls-crypt-v2-beside"),
    Case(proto="tcp", wrap="tls-crypt-v2-beside"),
    Case(proto="udp", wrap="tls-crypt", family=6),
    Case(proto="tcp", wrap="none", family=6),
    Case(proto="udp", wrap="tls-crypt", keys="prf"),
    Case(proto="tcp", wrap="none", keys="prf", tls="1.2"),
]


def name(case: Case) -> str:
    """A row's name in the report."""
    parts = [f"{case.proto}{case.family}", case.wrap, f"tls{case.tls}", case.cipher, case.digest]
    return "-".join(part for part in [*parts, "prf" if case.keys == "prf" else ""] if part)


def check_agreement(openvpn: Peer, case: Case) -> None:
    """The real one says that it was this TLS version, this cipher and this way to derive keys."""
    log = openvpn.log
    assert f"Control Channel: TLSv{case.tls}" in log
    reply = re.search(r"PUSH_REPLY[^']*", log)
    assert reply, "no PUSH_REPLY in openvpn's log"
    assert f",cipher {case.cipher}," in reply[0] + ",", reply[0]
    assert ("tls-ekm" in reply[0]) == (case.keys == "exporter"), reply[0]


@pytest.mark.parametrize("case", [*CROSS, *FURTHER], ids=name)
def test_combination(bench: Bench, kinds: tuple[str, str], case: Case) -> None:
    server, client = bench.both(case, *kinds)
    bench.exchange(300_000)
    check_agreement(server if server.kind == OPENVPN else client, case)
    assert client.stop() == 0
    assert server.stop() == 0
