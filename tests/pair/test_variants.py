# SPDX-License-Identifier: BSD-2-Clause
"""Every variant of the handshake, over links on which the accidents of a script happen (the notation of `link.py`).

A variant is a row: who protects how, which TLS, what comes between key exchange and push. For each, packets are lost,
repeated, delayed and turned over in either direction during the handshake, and again during a renegotiation that both
sides begin at once; the tunnel comes up, stays up, and both hold the same keys crosswise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from qubes_miragevpn.config.model import Proto, Timers, TlsCrypt, TlsCryptV2Server, TlsVersions
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.wire import peerinfo
from qubes_miragevpn.protocol.wrap import clientkey
from tests.interop.pki import Pki
from tests.pair.link import script
from tests.pair.test_client_key import LARGEST
from tests.pair.test_handshake import KEY, SERVER_KEY, WRAPPED, WRAPS, connected, transfer
from tests.pair.test_login import ADA, Office
from tests.pair.test_renegotiation import RENEGOTIATE, require_twins
from tests.pair.world import World, client_config, server_config

TIMERS = Timers(ping=10, ping_restart=0, reneg_sec=0, tls_timeout=1, hand_window=60)
ALL = 0xFFFF


@dataclass(frozen=True)
class Variant:
    """What is special: configurations, messages in place of the first push, what a client does not say that it can."""

    wrap: str = "none"
    tls: tuple[int, int] = (1, 3)
    server: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    first: tuple[str, ...] = ()
    unsaid: int = 0
    old: bool = False  # a tls-crypt-v2 client from before early negotiation, which makes the server keep state


LOGIN = {"auth_user_pass": True, "credentials": ADA}
NO_COOKIE = {"wrap": TlsCryptV2Server(SERVER_KEY)}
BESIDE = {"wrap": TlsCryptV2Server(SERVER_KEY, beside=TlsCrypt(KEY))}
SMALL = {"max_packet_size": 154}

VARIANTS = {
    **{f"{wrap}, TLS 1.{minor}": Variant(wrap, (1, minor)) for wrap in WRAPS for minor in (2, 3)},
    "user and password": Variant("tls-auth 1/0", client=LOGIN),
    "user and password, TLS 1.2": Variant("tls-crypt", (1, 2), client=LOGIN),
    "pending": Variant("tls-crypt", client=LOGIN, first=("AUTH_PENDING,timeout 60",)),
    "pending, with a notice": Variant("tls-crypt-v2", client=LOGIN, first=("AUTH_PENDING", "INFO_PRE,one moment")),
    "stateful": Variant("tls-crypt-v2", server=NO_COOKIE, old=True),
    "stateful, TLS 1.2": Variant("tls-crypt-v2", (1, 2), server=NO_COOKIE, old=True),
    "cookie where state is allowed": Variant("tls-crypt-v2", server=NO_COOKIE),
    "the largest key": Variant("tls-crypt-v2", client={"wrap": clientkey.TlsCryptV2Client(KEY, LARGEST)}),
    "a static key beside": Variant("tls-crypt", server=BESIDE),
    "a key of one's own beside": Variant("tls-crypt-v2", server=BESIDE),
    "the smallest packets": Variant("tls-crypt-v2", server=SMALL, client=SMALL),
    "keys by PRF": Variant("tls-crypt", (1, 2), unsaid=peerinfo.IvProto.TLS_KEY_EXPORT),
    "renegotiations as the first handshake": Variant("tls-auth 1/0", unsaid=peerinfo.IvProto.DYN_TLS_CRYPT),
    "a push that is asked for": Variant("tls-crypt", unsaid=peerinfo.IvProto.REQUEST_PUSH),
}  # fmt: skip

FATES = ("x.x..x", "~2~.x~", "..!.x!")


def begin(pki: Pki, variant: Variant, monkeypatch: pytest.MonkeyPatch, **rules: Any) -> tuple[World, Any]:
    ours, theirs = WRAPS[variant.wrap]
    versions = TlsVersions(minimum=variant.tls, maximum=variant.tls)
    if variant.old:
        monkeypatch.setattr(clientkey.ClientKeys, "first_id", 1)
    monkeypatch.setattr(peerinfo, "OUR_PROTO", peerinfo.OUR_PROTO & (ALL & ~variant.unsaid))
    server: dict[str, Any] = {"timers": TIMERS, "tls": versions, **variant.server}
    client: dict[str, Any] = {"timers": TIMERS, "tls": versions, **variant.client}
    own_wrap, their_wrap = client.pop("wrap", ours), server.pop("wrap", theirs)
    world = World(server_config(pki, their_wrap, Proto.UDP, **server), **rules)
    left = list(variant.first)

    def reply(_: tuple[str, bytes]) -> list[str]:
        said, left[:] = list(left), []
        return said

    if variant.first:
        Office(world, monkeypatch, reply)
    return world, world.client(client_config(pki, own_wrap, Proto.UDP, **client))


@pytest.mark.parametrize("fates", FATES)
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
@pytest.mark.parametrize("name", VARIANTS)
def test_accidents(pki: Pki, monkeypatch: pytest.MonkeyPatch, name: str, direction: str, fates: str) -> None:
    variant = VARIANTS[name]
    if variant.wrap == "none":
        fates = fates.replace("!", "x")  # TLS itself must fail over what nobody noticed before
    world, client = begin(pki, variant, monkeypatch, **{direction: script(fates)})
    connected(world, client)
    assert len(client.effects(c.OpenTransport)) == 1, "no second attempt"
    setattr(world, direction, script(fates))
    for side in (client, world.server):
        side.event(RENEGOTIATE)
    assert world.run(40, lambda: 1 in client.keys and 1 in world.server.keys)
    world.run(20)
    require_twins(world, client)
    transfer(world, client)
    assert not client.effects(c.TunnelDown)


def test_the_variants_are_what_they_are_called(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each unusual one leaves its mark."""
    marks: dict[str, Any] = {
        "stateful": lambda world, client: not any(p[0] >> 3 == 11 for p in client.sent),
        "the smallest packets": lambda world, client: len(client.sent) > 20,
        "the largest key": lambda world, client: len(client.sent[0]) == 1024 + 54 and len(WRAPPED) < 400,
        "keys by PRF": lambda world, client: "PRF" in client.effects(c.TunnelUp)[0].summary,
        "pending": lambda world, client: any("to be completed" in n.text for n in client.effects(c.Notify)),
    }
    for name, left_its_mark in marks.items():
        with monkeypatch.context() as patch:
            world, client = begin(pki, VARIANTS[name], patch)
            connected(world, client)
            assert left_its_mark(world, client), name
