# SPDX-License-Identifier: BSD-2-Clause
"""What client and server agree on for the data channel: cipher, digest, framing, the epoch format."""

from __future__ import annotations

from typing import Any

import pytest

from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.dataplane.formats.cbc import CbcKey
from qubes_miragevpn.dataplane.formats.epoch import EpochKey
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.wire import peerinfo
from tests.interop.pki import Pki
from tests.pair.test_handshake import TRANSFER, connected, transfer
from tests.pair.world import Side, World, client_config, server_config, up


def keys(side: Side) -> list[Any]:
    assert side.peer is not None
    return list(side.channel._peers.by_handle[side.peer].keys.values())


def everything_passes(world: World, client: Side) -> None:
    transfer(world, client)
    assert len(client.tun) == len(world.server.tun) == TRANSFER


def test_two_of_ours_use_epochs_and_renegotiate(pki: Pki) -> None:
    world = World(server_config(pki))
    client = world.client(client_config(pki))
    connected(world, client)
    everything_passes(world, client)
    for side in (client, world.server):
        assert all(isinstance(key, EpochKey) for key in keys(side))
    key = keys(client)[0]
    for _ in range(3):
        key._iterate()
    everything_passes(world, client)
    assert keys(world.server)[0].send_epoch == 4
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    world.run(5)
    everything_passes(world, client)
    assert len(keys(client)) == 2 and all(isinstance(key, EpochKey) for key in keys(client))


@pytest.mark.parametrize(
    "unsaid", [peerinfo.IvProto.DATA_EPOCH, peerinfo.IvProto.DATA_V2, peerinfo.IvProto.CC_EXIT_NOTIFY]
)
def test_a_client_that_cannot_gets_no_epochs(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, unsaid: peerinfo.IvProto
) -> None:
    monkeypatch.setattr(peerinfo, "OUR_PROTO", peerinfo.OUR_PROTO & ~unsaid)
    world = World(server_config(pki))
    client = world.client(client_config(pki))
    connected(world, client)
    everything_passes(world, client)
    assert not any(isinstance(key, EpochKey) for side in (client, world.server) for key in keys(side))


@pytest.mark.parametrize("digest", ["SHA1", "SHA512"])
@pytest.mark.parametrize("cipher", ["AES-128-CBC", "AES-256-CBC"])
def test_cbc_is_negotiated_and_has_no_epochs(pki: Pki, cipher: str, digest: str) -> None:
    world = World(server_config(pki, data_ciphers=(cipher,), digest=digest))
    client = world.client(client_config(pki, data_ciphers=("AES-256-GCM", cipher), digest=digest))
    connected(world, client)
    everything_passes(world, client)
    assert all(isinstance(key, CbcKey) for side in (client, world.server) for key in keys(side))


def test_a_client_that_does_not_negotiate_is_taken_by_its_options_string(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peerinfo, "build", lambda *_, **__: "IV_VER=2.3.18\nIV_PROTO=2\n")
    world = World(server_config(pki, data_ciphers=("AES-256-GCM", "AES-128-CBC"), digest="SHA256"))
    old = {"data_ciphers": ("AES-128-CBC",), "data_ciphers_fallback": "AES-128-CBC", "digest": "SHA256"}
    client = world.client(client_config(pki, **old))
    connected(world, client)
    everything_passes(world, client)
    assert all(isinstance(key, CbcKey) for key in keys(client))


@pytest.mark.parametrize("pushed", ["compress stub-v2", "comp-lzo no", "compress lz4"])
def test_pushed_framing_is_used(pki: Pki, pushed: str) -> None:
    kind = {
        "compress stub-v2": Compression.STUB_V2, "comp-lzo no": Compression.STUB_LZO, "compress lz4": Compression.LZ4,
    }[pushed]  # fmt: skip
    world = World(server_config(pki, compression=kind, push=(pushed,)))
    client = world.client(client_config(pki))
    connected(world, client)
    everything_passes(world, client)


@pytest.mark.parametrize(
    "pushed", ["protocol-flags cc-exit aead-epoch", "compress migrate", "cipher AES-256-CBC", "cipher none"]
)
def test_what_a_server_may_not_push(pki: Pki, monkeypatch: pytest.MonkeyPatch, pushed: str) -> None:
    """The epoch format without a peer id, a framing that has no name, ciphers that nobody offered: no tunnel."""
    monkeypatch.setattr(peerinfo, "OUR_PROTO", peerinfo.OUR_PROTO & ~peerinfo.IvProto.DATA_V2)
    monkeypatch.setattr(
        "qubes_miragevpn.protocol.serving.welcome.push_options", lambda *_: ["ifconfig 10.8.0.2 255.255.255.0", pushed]
    )
    world = World(server_config(pki))
    client = world.client(client_config(pki))
    assert not world.run(20, lambda: up(client))


def test_a_client_that_moves_is_followed_with_both_channels(pki: Pki) -> None:
    world = World(server_config(pki))
    client = world.client(client_config(pki))
    connected(world, client)
    client.place = ("203.0.113.77", 5)
    transfer(world, client)  # what the server sends before it hears from there is lost
    assert len(world.server.tun) == TRANSFER
    everything_passes(world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    world.run(5)
    everything_passes(world, client)
    assert len(keys(client)) == 2
    assert ("qube-one/203.0.113.77:5", "has moved here") in [(n.client, n.text) for n in world.server.effects(c.Notify)]


def test_no_client_moves_to_where_another_is(pki: Pki) -> None:
    world = World(server_config(pki, duplicate_cn=True))
    first, second = (world.client(client_config(pki)) for _ in range(2))
    connected(world, first)
    connected(world, second)
    own, first.place = first.place, second.place
    first.send(b"\x45\0\0\x15" + bytes(17))
    world.run(1)
    assert not any("moved" in said.text for said in world.server.effects(c.Notify))
    first.place = own
    everything_passes(world, first)
    everything_passes(world, second)


@pytest.mark.parametrize(("most", "mtu", "works"), [(1600, 1600, True), (1600, 1601, False), (1500, 1501, False)])
def test_a_pushed_mtu_has_its_limit(pki: Pki, most: int, mtu: int, works: bool) -> None:
    world = World(server_config(pki, tun_mtu=mtu))
    client = world.client(client_config(pki, tun_mtu_max=most))
    assert world.run(20, lambda: up(client)) is works
    if works:
        assert client.effects(c.TunnelUp)[-1].settings.mtu == mtu
