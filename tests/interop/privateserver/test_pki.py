# SPDX-License-Identifier: BSD-2-Clause
"""A private server made by `miragevpn pki`, run as written; its profile in openvpn and in ours; a revoked client."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli.main import main
from tests.interop.conftest import Bench
from tests.interop.netns import SERVER_WIRE, TUN
from tests.interop.peers import OPENVPN, OURS

ONCE = f"dev {TUN}\ndev-type tun\nconnect-retry-max 1\nhand-window 4\nserver-poll-timeout 4\n"


def pki(*arguments: str) -> None:
    assert main(["pki", *arguments]) == ExitCode.OK


@pytest.mark.parametrize("kind", [OPENVPN, OURS])
def test_three_commands_and_a_revocation(bench: Bench, kind: str) -> None:
    folder = bench.folder / "vpn"
    pki("init", str(folder))
    pki("server", str(folder), SERVER_WIRE, "--no-redirect", "--network", "10.99.0.0/24")
    profiles = {}
    for name in ("welcome", "unwelcome"):
        pki("client", str(folder), name, "-o", str(bench.folder / f"{name}.ovpn"))
        profiles[name] = (bench.folder / f"{name}.ovpn").read_text()
    pki("revoke", str(folder), "unwelcome")
    for file in ("crl.pem", "server.conf"):
        shutil.copy(folder / file, bench.folder)
    server = bench.server(OURS, (bench.folder / "server.conf").read_text() + f"dev {TUN}\ndev-type tun\n")
    refused = bench.client(kind, profiles["unwelcome"] + ONCE)
    server.wait_log("revoked")
    refused.kill()
    client = bench.client(kind, profiles["welcome"] + ONCE)
    client.wait_up()
    bench.exchange(100_000)
    assert Path(folder / "issued" / "welcome.crt").exists()
