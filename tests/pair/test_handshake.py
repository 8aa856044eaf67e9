# SPDX-License-Identifier: BSD-2-Clause
"""Both roles in memory: handshake, transfer and renegotiation over good and bad links."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import (
    ControlWrap,
    NoWrap,
    Proto,
    Timers,
    TlsAuth,
    TlsCrypt,
    TlsCryptV2Client,
    TlsCryptV2Server,
    TlsVersions,
)
from qubes_miragevpn.crypto.wrappedkey import timestamp_metadata, wrap_client_key
from qubes_miragevpn.protocol import contract as c
from tests.interop.pki import Pki
from tests.pair.link import rule, script
from tests.pair.world import Side, World, client_config, inner_packet, server_config, up

KEY = Secret(bytes(range(256)))
SERVER_KEY = Secret(bytes(range(128)))
WRAPPED = wrap_client_key(SERVER_KEY, KEY, timestamp_metadata(1_700_000_000))
WRAPS: dict[str, tuple[ControlWrap, ControlWrap]] = {  # client's, server's
    "none": (NoWrap(), NoWrap()),
    "tls-auth 1/0": (TlsAuth(KEY, 1, "SHA1"), TlsAuth(KEY, 0, "SHA1")),
    "tls-auth both ways": (TlsAuth(KEY, None, "SHA512"), TlsAuth(KEY, None, "SHA512")),
    "tls-crypt": (TlsCrypt(KEY), TlsCrypt(KEY)),
    "tls-crypt-v2": (TlsCryptV2Client(KEY, WRAPPED), TlsCryptV2Server(SERVER_KEY, force_cookie=True)),
}
TRANSFER = 40  # inner packets each way


def connected(world: World, client: Side, seconds: float = 60) -> None:
    assert world.run(seconds, lambda: up(client)), [client.seen, world.server.seen]


def transfer(world: World, client: Side) -> None:
    """Every inner packet that the link lets through arrives as it was sent."""
    address = str(client.effects(c.TunnelUp)[-1].settings.ipv4.ip)
    there = [inner_packet(address, "10.8.0.1", b"there %d" % n) for n in range(TRANSFER)]
    back = [inner_packet("10.8.0.1", address, b"back %d" % n) for n in range(TRANSFER)]
    client.tun.clear()
    world.server.tun.clear()
    for one, other in zip(there, back, strict=True):
        client.send(one)
        world.server.send(other)
        world.run(0.01)
    world.run(1)
    for sent, arrived, decide in ((there, world.server.tun, world.to_server), (back, client.tun, world.to_client)):
        assert set(arrived) <= set(sent)
        assert len(arrived) == len(set(arrived)), "a repeated packet was delivered twice"
        assert len(arrived) > TRANSFER / 3, decide


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("proto", Proto)
@pytest.mark.parametrize("tls", [(1, 2), (1, 3)])
def test_connects_and_carries(pki: Pki, wrap: str, proto: Proto, tls: tuple[int, int]) -> None:
    ours, theirs = WRAPS[wrap]
    versions = TlsVersions(minimum=tls, maximum=tls)
    world = World(server_config(pki, theirs, proto, tls=versions))
    client = world.client(client_config(pki, ours, proto, tls=versions))
    connected(world, client)
    transfer(world, client)
    assert len(client.tun) == TRANSFER and len(world.server.tun) == TRANSFER


@pytest.mark.parametrize("cipher", ["AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"])
def test_servers_cipher_is_used(pki: Pki, cipher: str) -> None:
    world = World(server_config(pki, data_ciphers=(cipher,)))
    client = world.client(client_config(pki))
    connected(world, client)
    transfer(world, client)
    assert [keys.suite for keys in client.keys.values()] == [cipher]  # type: ignore[attr-defined]


def test_both_sides_hold_the_same_keys_crosswise(pki: Pki) -> None:
    world = World(server_config(pki))
    client = world.client(client_config(pki))
    connected(world, client)
    ours: Any = client.keys[0]
    theirs: Any = world.server.keys[0]
    assert ours.send == theirs.receive and ours.receive == theirs.send and ours.send != ours.receive


BAD_LINKS = ("loss 30%", "loss 20% dup 20% reorder 30%", "loss 10% dup 10% reorder 10% corrupt 10%")
# Without protection a corrupt control packet reaches TLS, which must then fail: that link is for the protected modes.
BAD = [(wrap, link) for wrap in WRAPS for link in BAD_LINKS if wrap != "none" or "corrupt" not in link]


@pytest.mark.parametrize(("wrap", "link"), BAD)
@pytest.mark.parametrize("seed", range(6))
def test_bad_link_handshake_transfer_renegotiation(pki: Pki, wrap: str, seed: int, link: str) -> None:
    ours, theirs = WRAPS[wrap]
    timers = Timers(hand_window=300, connect_timeout=300, tls_timeout=1)
    quiet = replace(timers, ping_restart=0)
    there, back = rule(link, seed), rule(link, seed + 1000)
    world = World(server_config(pki, theirs, timers=quiet), to_server=there, to_client=back, seed=seed)
    client = world.client(client_config(pki, ours, timers=quiet))
    connected(world, client, 300)
    transfer(world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert world.run(300, lambda: 1 in client.keys and 1 in world.server.keys)
    transfer(world, client)
    assert not client.effects(c.TunnelDown), "the tunnel never broke"


@pytest.mark.parametrize("fates", ["x", ".x", "..x", "...x", "2", "22", "~", ".~", "..~", "x.x.x", "!", ".!", "..!.!"])
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
@pytest.mark.parametrize("wrap", ["tls-crypt", "tls-crypt-v2"])
def test_single_accidents(pki: Pki, wrap: str, fates: str, direction: str) -> None:
    """Each early packet in turn is lost, repeated, delayed or corrupted; the handshake completes all the same."""
    rules: dict[str, Any] = {direction: script(fates)}
    ours, theirs = WRAPS[wrap]
    world = World(server_config(pki, theirs), **rules)
    client = world.client(client_config(pki, ours))
    connected(world, client)
    transfer(world, client)


def test_control_packets_are_at_most_1250_bytes(pki: Pki) -> None:
    for ours, theirs in WRAPS.values():
        world = World(server_config(pki, theirs))
        client = world.client(client_config(pki, ours))
        connected(world, client)
        assert max(len(packet) for packet in (*client.sent, *world.server.sent)) <= 1250
