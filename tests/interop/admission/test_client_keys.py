# SPDX-License-Identifier: BSD-2-Clause
"""A server of ours for clients with keys of their own and with a static one at once, and a program that judges keys."""

from __future__ import annotations

import base64
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.interop.admission.test_places import PLACES
from tests.interop.clientkey.test_keys import make_client_key, make_server_key
from tests.interop.conftest import Bench
from tests.interop.netns import SERVER_TUNNEL, TUN, Namespace
from tests.interop.peers import OPENVPN, OURS, Case, Peer, client_config, server_config
from tests.interop.traffic import connect, transfer

BARE = Case()
SIZE = 20_000
OLD = (sys.executable, "-m", "tests.interop.admission.old_client")
REFUSED = "its key is refused: the program ended with 1"


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def judge(folder: Path) -> Path:
    """A program that notes what it is told, and lets everybody in but the revoked."""
    path = folder / "judge"
    path.write_text(
        '#!/bin/sh\nprintf "%s %s %s %s\\n" "$1" "$script_type" "$metadata_type" "$(cat "$metadata_file")" '
        f'>>{folder}/judged\n[ "$(cat "$metadata_file")" != revoked ]\n'
    )
    path.chmod(0o755)
    return path


def visitor(bench: Bench, kind: str, space: Namespace, case: Case, *lines: str, wrapper: tuple[str, ...] = ()) -> Peer:
    """A client in `space`."""
    text = client_config(case, bench.pki, kind) + "\n".join(lines) + "\n"
    peer = Peer(f"client{len(bench.peers)}", kind, "client", space, text, bench.folder, wrapper=wrapper)
    bench.peers.append(peer)
    return peer


def exchange(bench: Bench, space: Namespace) -> None:
    far, near = connect(bench.wire.server, SERVER_TUNNEL, space)
    with far, near:
        transfer(near, far, SIZE).check()
        transfer(far, near, SIZE).check()


@pytest.mark.parametrize(
    ("cookie", "fallback", "own", "static"),
    [("force-cookie", "tls-auth", OPENVPN, OURS), ("allow-noncookie", "tls-crypt", OURS, OPENVPN)],
)
def test_own_keys_and_one_fallback_side_by_side(
    bench: Bench, cookie: str, fallback: str, own: str, static: str
) -> None:
    """By UDP and TCP at once, of either implementation; whose key the program refuses hears nothing, who has none
    of his own is not asked about; an old client, for which a server must keep state, is let in where it may be."""
    make_server_key(OPENVPN, bench.folder / "s.key")
    for name, metadata in (("good", "qube one"), ("bad", "revoked")):
        make_client_key(OPENVPN, bench.folder / "s.key", bench.folder / f"{name}.key", base64_of(metadata))
    beside = Case(wrap=fallback)
    server = bench.server(
        OURS,
        server_config(beside, bench.pki, OURS)
        + f"tls-crypt-v2 s.key {cookie}\ntls-crypt-v2-verify '{judge(bench.folder)} \"a word\"'\n"
        + "\n".join(PLACES),
        debug=True,
    )
    spaces = (bench.wire.client, bench.wire.second_client(), bench.wire.third_client())
    clients = [
        visitor(bench, own, spaces[0], BARE, "tls-crypt-v2 good.key"),
        visitor(bench, OPENVPN, spaces[1], Case(proto="tcp"), "tls-crypt-v2 good.key"),
        visitor(bench, static, spaces[2], replace(beside, family=6)),
    ]
    addresses = {client.wait_up() for client in clients}
    assert len(addresses) == 3
    for space in spaces:
        exchange(bench, space)
    assert (bench.folder / "judged").read_text() == "a word tls-crypt-v2-verify 0 qube one\n" * 2
    for space, client, kind, proto in ((spaces[0], clients[0], OPENVPN, "udp"), (spaces[1], clients[1], own, "tcp")):
        client.stop()
        seen = server.log.count(REFUSED)
        refused = visitor(bench, kind, space, Case(proto=proto), "tls-crypt-v2 bad.key")
        server.wait("refusal", lambda seen=seen: server.log.count(REFUSED) > seen)  # type: ignore[misc]
        refused.kill()
        assert "VERIFY OK" not in refused.log and "certificate" not in refused.log, "TLS said nothing to it"
    old = visitor(bench, OURS, spaces[0], BARE, "tls-crypt-v2 good.key", wrapper=OLD)
    if cookie == "force-cookie":
        server.wait_log("client without early negotiation")
        assert old.space.address(TUN) is None
    else:
        old.wait_up()
        exchange(bench, spaces[0])
    exchange(bench, spaces[2])
    assert "Traceback" not in server.log
