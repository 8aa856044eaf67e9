# SPDX-License-Identifier: BSD-2-Clause
"""The options strings of both ends: what is told of differences, and ``opt-verify``. openvpn serves."""

from __future__ import annotations

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config


@pytest.mark.parametrize(
    "case",
    [
        Case(wrap="tls-auth"),
        Case(proto="tcp", cipher="CHACHA20-POLY1305"),
        Case(cipher="AES-256-CBC", digest="SHA256", family=6, server_lines=("tun-mtu 1400", 'push "tun-mtu 1400"')),
        Case(server_lines=("comp-lzo no", 'push "comp-lzo no"')),
    ],
    ids=["tls-auth", "tcp", "pushed mtu", "pushed framing"],
)
def test_nothing_is_told_where_nothing_differs(bench: Bench, case: Case) -> None:
    _, client = bench.both(case, OPENVPN, OURS)
    bench.exchange(1_000)
    assert "inconsistently" not in client.log and "config but missing" not in client.log, client.log


@pytest.mark.parametrize("strict", [False, True])
def test_what_differs_is_told_and_may_be_refused(bench: Bench, strict: bool) -> None:
    once = ("connect-retry-max 1", "connect-retry 1 1")
    case = Case(client_lines=("fragment 1200", *once, *(["opt-verify"] if strict else [])))
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    client = bench.client(OURS, client_config(case, bench.pki, OURS))
    client.wait_log("'mtu-dynamic' is present in local config but missing in remote config, local='mtu-dynamic'")
    if strict:
        assert client.wait_exit() == ExitCode.CONNECTION
        client.must_have_said(r"settings do not fit \(opt-verify\)")
