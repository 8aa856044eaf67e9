# SPDX-License-Identifier: BSD-2-Clause
"""Ends that are told to the other side: an idle client, a session that has lasted long enough. openvpn serves."""

from __future__ import annotations

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config

TOLD = r"(remote-exit|SIGTERM\[soft,.*exit.*\]).*client-instance exiting|client-instance exiting"


@pytest.mark.parametrize(
    ("line", "pushed", "why"),
    [
        ("inactive 2", False, r"ended: .*\(inactive\)"),
        ("inactive 2 1000", True, r"ended: .*\(inactive\)"),
        ("session-timeout 2", True, r"ended: .*\(session-timeout\)"),
    ],
)
def test_a_client_that_leaves_by_itself(bench: Bench, line: str, pushed: bool, why: str) -> None:
    case = Case(
        client_lines=() if pushed else (line,), server_lines=(f'push "{line}"', 'push "ping 1"') if pushed else ()
    )
    server = bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    client = bench.client(OURS, client_config(case, bench.pki, OURS))
    client.wait_log("up: ")
    assert client.wait_exit(8) == ExitCode.CONNECTION
    client.must_have_said(why)
    server.wait_log(TOLD)
