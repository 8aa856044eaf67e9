# SPDX-License-Identifier: BSD-2-Clause
"""tls-crypt-v2 with keys that each implementation made, and the ways in which a server asks for them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli.main import main
from tests.interop.conftest import Bench
from tests.interop.netns import ENVIRONMENT
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config

BARE = Case()
ONCE = "connect-retry-max 1\nconnect-retry 1 1\nhand-window 5\nserver-poll-timeout 5\n"


def _openvpn_genkey(*arguments: str) -> None:
    ran = subprocess.run(["openvpn", *arguments], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert ran.returncode == 0, ran.stdout


def make_server_key(kind: str, path: Path) -> None:
    if kind == OPENVPN:
        _openvpn_genkey("--genkey", "tls-crypt-v2-server", str(path))
    else:
        assert main(["genkey", "--tls-crypt-v2-server", str(path)]) == ExitCode.OK


def make_client_key(kind: str, server: Path, path: Path, metadata: str = "") -> None:
    if kind == OPENVPN:
        _openvpn_genkey("--tls-crypt-v2", str(server), "--genkey", "tls-crypt-v2-client", str(path),
                        *([metadata] if metadata else []))  # fmt: skip
    else:
        extra = ["--metadata", metadata] if metadata else []
        assert main(["genkey", "--tls-crypt-v2-client", str(server), *extra, str(path)]) == ExitCode.OK


# who makes the server's key, who the client's, metadata, what the server's line adds
KEYS = [
    (OPENVPN, OPENVPN, "", ""),
    (OURS, OURS, "", "force-cookie"),
    (OPENVPN, OURS, "QUJDRA==", "allow-noncookie"),
    (OURS, OPENVPN, "QUJDRA==", "force-cookie"),
]


@pytest.mark.parametrize(("server_maker", "client_maker", "metadata", "cookie"), KEYS)
def test_keys_of_either_maker(
    bench: Bench, kinds: tuple[str, str], server_maker: str, client_maker: str, metadata: str, cookie: str
) -> None:
    server_kind, client_kind = kinds
    make_server_key(server_maker, bench.folder / "s.key")
    make_client_key(client_maker, bench.folder / "s.key", bench.folder / "c.key", metadata)
    server = bench.server(
        server_kind, server_config(BARE, bench.pki, server_kind) + f"tls-crypt-v2 s.key {cookie}\n", debug=True
    )
    client = bench.client(client_kind, client_config(BARE, bench.pki, client_kind) + "tls-crypt-v2 c.key\n")
    client.wait_up()
    bench.exchange(10_000)
    assert client.stop() == 0
    assert server.stop() == 0


def test_a_largest_client_key(bench: Bench, kinds: tuple[str, str]) -> None:
    """733 bytes of metadata make a wrapped key of 1024: hardly any room for TLS beside it."""
    import base64

    server_kind, client_kind = kinds
    make_server_key(OURS, bench.folder / "s.key")
    make_client_key(OURS, bench.folder / "s.key", bench.folder / "c.key", base64.b64encode(bytes(733)).decode())
    bench.server(server_kind, server_config(BARE, bench.pki, server_kind) + "tls-crypt-v2 s.key\n")
    client = bench.client(client_kind, client_config(BARE, bench.pki, client_kind) + "tls-crypt-v2 c.key\n")
    client.wait_up()
    bench.exchange(10_000)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_a_client_key_of_another_server(bench: Bench, proto: str) -> None:
    case = Case(proto=proto)
    make_server_key(OURS, bench.folder / "s.key")
    make_server_key(OURS, bench.folder / "other.key")
    make_client_key(OURS, bench.folder / "other.key", bench.folder / "c.key")
    server = bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN) + "tls-crypt-v2 s.key\n")
    client = bench.client(OURS, client_config(case, bench.pki, OURS) + "tls-crypt-v2 c.key\n" + ONCE)
    assert client.wait_exit() == ExitCode.CONNECTION
    server.wait_log("[Cc]an ?not unwrap tls-crypt-v2 client key|client key authentication error")


def test_our_server_ignores_a_client_key_of_another(bench: Bench) -> None:
    make_server_key(OURS, bench.folder / "s.key")
    make_server_key(OURS, bench.folder / "other.key")
    make_client_key(OPENVPN, bench.folder / "other.key", bench.folder / "c.key")
    server = bench.server(OURS, server_config(BARE, bench.pki, OURS) + "tls-crypt-v2 s.key\n", debug=True)
    client = bench.client(OPENVPN, client_config(BARE, bench.pki, OPENVPN) + "tls-crypt-v2 c.key\nhand-window 3\n")
    client.wait_log("TLS key negotiation failed")
    assert "TLS: Initial packet" not in client.log
    server.must_have_said("dropped.*wrapped client key is not authentic")
