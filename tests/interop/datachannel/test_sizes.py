# SPDX-License-Identifier: BSD-2-Clause
"""``mssfix`` and ``fragment``: our numbers are those that openvpn 2.6 says it uses, and fragments pass both ways."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from qubes_miragevpn.config.loader import load_client
from qubes_miragevpn.config.model import Proto
from qubes_miragevpn.protocol.limits import peer_limits
from tests.interop.conftest import Bench
from tests.interop.netns import CLIENT_WIRE, CLIENT_WIRE6
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config


@dataclass(frozen=True)
class Row:
    """A data channel, and the lines about sizes."""

    lines: tuple[str, ...] = ()
    cipher: str = "AES-256-GCM"
    digest: str = ""
    proto: str = "udp"
    family: int = 4


ROWS = [
    Row(),
    Row(family=6),
    Row(proto="tcp"),
    Row(proto="tcp", family=6, cipher="AES-256-CBC", digest="SHA256"),
    Row(("mssfix 1300",)),
    Row(("mssfix 1300 mtu",), cipher="AES-128-CBC", digest="SHA1", family=6),
    Row(("mssfix 1300 fixed",), cipher="AES-256-CBC", digest="SHA512"),
    Row(("mssfix 1400", "comp-lzo no"), cipher="AES-256-CBC", digest="SHA256"),
    Row(("fragment 1000",)),
    Row(("fragment 1000 mtu", "mssfix 900"), cipher="AES-256-CBC", digest="SHA256"),
    Row(("fragment 700", "compress stub"), cipher="AES-128-CBC", digest="SHA512", family=6),
    Row(("fragment 1200", "compress stub-v2"), cipher="CHACHA20-POLY1305"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join((row.proto + str(row.family), row.cipher, *row.lines)))
def test_numbers_are_openvpns(bench: Bench, row: Row) -> None:
    case = Case(
        proto=row.proto, family=row.family, cipher=row.cipher, digest=row.digest,
        server_lines=(*row.lines, "verb 4"), client_lines=row.lines,
    )  # fmt: skip
    server = bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    text = client_config(case, bench.pki, OURS)
    bench.client(OURS, text).wait_up()
    found = server.wait_log(r"qube-one/.* Data Channel MTU parms \[ mss_fix:(\d+) max_frag:(\d+) ")
    place = (CLIENT_WIRE if row.family == 4 else CLIENT_WIRE6, 1194)
    config = load_client(text.encode(), file="client", read_file=_nothing).config
    limits = peer_limits(config.common, Proto(row.proto), place, cipher=row.cipher, ping=0, silence=0)
    assert (limits.mss4, limits.payload.fragment) == (int(found[1]), int(found[2]))
    assert limits.mss6 == limits.mss4 - 20
    bench.exchange(50_000)


@pytest.mark.parametrize("lines", [("fragment 400", "mssfix 0"), ("fragment 500 mtu", "mssfix 0", "comp-lzo no")])
@pytest.mark.parametrize("cipher", ["AES-256-GCM", "AES-256-CBC"])
def test_fragments_pass_both_ways(bench: Bench, kinds: tuple[str, str], cipher: str, lines: tuple[str, ...]) -> None:
    """Without mssfix every full segment is cut into four."""
    case = Case(cipher=cipher, digest="SHA256", server_lines=lines, client_lines=lines)
    bench.both(case, *kinds)
    bench.exchange(300_000)


def _nothing(path: str) -> bytes:
    raise FileNotFoundError(path)
