# SPDX-License-Identifier: BSD-2-Clause
"""Ciphers and digests: negotiated, as the common provider's profile has them, and with a peer that cannot negotiate.

openvpn 2.6 always negotiates with a peer that can, so the peer that cannot is played with what the real one offers: our
client does not see the pushed cipher (``pull-filter``), as if it had never come.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config

# ``providers legacy`` is openvpn's own way to Blowfish; ours has it from its library.
LEGACY = "providers legacy default"
INSECURE = "allow-insecure-crypto BF-CBC DES-EDE3-CBC none MD5 RIPEMD160"


@dataclass(frozen=True)
class Row:
    """`cipher` with `digest`; `insecure` needs both ends' consent."""

    cipher: str
    digest: str
    proto: str = "udp"
    insecure: bool = False


NEGOTIATED = [
    Row("AES-256-CBC", "SHA512", proto="tcp"),
    Row("AES-192-CBC", "SHA384"),
    Row("AES-128-CBC", "SHA1"),
    Row("AES-128-CBC", "SHA224", proto="tcp"),
    Row("AES-256-CBC", "SHA3-512"),
    Row("AES-128-CBC", "BLAKE2b512"),
    Row("AES-128-CBC", "SHA512-256"),
    Row("AES-192-GCM", "SHA1"),
    Row("BF-CBC", "SHA1", insecure=True),
    Row("DES-EDE3-CBC", "MD5", insecure=True),
    Row("AES-128-CBC", "RIPEMD160", insecure=True),
    Row("none", "SHA256", insecure=True),
]


def text(config: str, kind: str, row: Row) -> str:
    """`config` with what only one of the two programs wants to hear."""
    if not row.insecure:
        return config
    return config + (f"{LEGACY}\n" if kind == OPENVPN else f"{INSECURE}\n")


@pytest.mark.parametrize("row", NEGOTIATED, ids=lambda row: f"{row.proto}-{row.cipher}-{row.digest}")
def test_negotiated(bench: Bench, kinds: tuple[str, str], row: Row) -> None:
    case = Case(proto=row.proto, cipher=row.cipher, digest=row.digest)
    server = bench.server(kinds[0], text(server_config(case, bench.pki, kinds[0]), kinds[0], row))
    client = bench.client(kinds[1], text(client_config(case, bench.pki, kinds[1]), kinds[1], row))
    client.wait_up()
    bench.exchange(100_000)
    openvpn = server if server.kind == OPENVPN else client
    assert re.search(rf"PUSH_REPLY[^']*,cipher {re.escape(row.cipher)}[,']", openvpn.log)


def provider(config: str, cipher: str, digest: str, *more: str) -> str:
    """`config` as providers write it: ``cipher`` and ``auth`` in place of ``data-ciphers``."""
    lines = [line for line in config.splitlines() if not line.startswith("data-ciphers")]
    return "\n".join((*lines, f"cipher {cipher}", f"auth {digest}", *more)) + "\n"


@pytest.mark.parametrize("digest", ["SHA256", "SHA512"])
def test_the_providers_line_against_a_server_of_cbc(bench: Bench, digest: str) -> None:
    case = Case(cipher="AES-256-CBC", digest=digest)
    server = bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    client = bench.client(OURS, provider(client_config(case, bench.pki, OURS), "AES-256-CBC", digest))
    client.wait_up()
    bench.exchange(100_000)
    assert "cipher AES-256-CBC" in server.log


def test_another_digest_is_said_before_nothing_works(bench: Bench) -> None:
    case = Case(cipher="AES-256-CBC", digest="SHA512")
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    client = bench.client(OURS, client_config(Case(cipher="AES-256-CBC", digest="SHA256"), bench.pki, OURS))
    client.wait_log("the other end uses 'auth SHA512'")
