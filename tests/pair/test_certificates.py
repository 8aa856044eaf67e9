# SPDX-License-Identifier: BSD-2-Clause
"""Certificates that one side refuses: who learns of it, and whether it is tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Identity, PeerPolicy, Proto, Remote, TlsVersions
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.conversation import Conversation
from tests.interop.pki import Pem, Pki
from tests.pair.test_client import B, brief
from tests.pair.test_handshake import connected
from tests.pair.world import SERVER_AT, Side, World, client_config, server_config
from tests.unit.protocol import certificates as made

DAY = timedelta(days=1)
VERSIONS = {"1.2": TlsVersions(maximum=(1, 2)), "1.3": TlsVersions(minimum=(1, 3))}
CA = made.certificate(((made.CN, "CA"),), usages=("key_cert_sign",), extended=None, ca=True)


def identity(pem: Pem) -> Identity:
    return Identity(pem.certificate.encode(), Secret(pem.key.encode()))


def issued(name: str, **options: Any) -> Identity:
    leaf = made.certificate(((made.CN, name),), issuer=((made.CN, "CA"),), **options)
    return Identity(made.pem(leaf), Secret(made.key_pem()))


def notes(side: Side) -> str:
    return "\n".join(note.text for note in side.effects(c.Notify))


@pytest.mark.parametrize("proto", Proto)
@pytest.mark.parametrize("tls", VERSIONS)
def test_a_server_that_does_not_know_our_issuer_says_so_and_is_believed(pki: Pki, tls: str, proto: Proto) -> None:
    """With TLS 1.3 its alert comes after our own end of the handshake."""
    world = World(server_config(pki, proto=proto))
    config = client_config(pki, proto=proto, identity=identity(pki.foreign_client), tls=VERSIONS[tls])
    client = world.client(config)
    assert world.run(10, lambda: bool(client.effects(c.Stop)))
    [stop] = client.effects(c.Stop)
    assert stop.kind is c.StopKind.AUTH
    assert stop.reason == "the server refuses our certificate: the peer does not know who issued it (unknown ca)"
    assert not client.effects(c.TunnelUp)


def test_an_expired_certificate_of_ours_is_named_as_that(pki: Pki) -> None:
    world = World(server_config(pki, peer=PeerPolicy(ca_pem=made.pem(CA))))
    client = world.client(client_config(pki, identity=issued("old", age=3 * DAY, life=DAY)))
    assert world.run(10, lambda: bool(client.effects(c.Stop)))
    assert "refuses our certificate: it has expired, by the peer's clock" in client.effects(c.Stop)[0].reason


def test_other_servers_are_tried_before_that_is_the_end(pki: Pki) -> None:
    remotes = (Remote(SERVER_AT[0], SERVER_AT[1], Proto.UDP), Remote(str(B), 1194, Proto.UDP))
    world = World(server_config(pki))
    client = world.client(client_config(pki, identity=identity(pki.foreign_client), remotes=remotes))
    world.run(10)
    assert f"open 2 udp {B}" in brief(client.seen)


def test_auth_retry_keeps_trying(pki: Pki) -> None:
    world = World(server_config(pki))
    client = world.client(client_config(pki, identity=identity(pki.foreign_client), auth_retry="nointeract"))
    world.run(20)
    assert len(client.effects(c.OpenTransport)) >= 3 and not client.effects(c.Stop)
    assert "refuses our certificate" in notes(client)


def test_a_server_survives_clients_that_refuse_its_certificate(pki: Pki) -> None:
    world = World(server_config(pki))
    client = world.client(client_config(pki, peer=PeerPolicy(ca_pem=pki.foreign_ca.encode())))
    world.run(10)
    assert client.effects(c.Stop) and not world.server.effects(c.Stop)
    assert "the client refuses our certificate: " in notes(world.server)


def test_silence_after_our_certificate_is_called_what_it_may_be(pki: Pki) -> None:
    """Not every server says why: openvpn 2.6 does not."""
    world = World(server_config(pki))
    client = world.client(client_config(pki))

    def deaf(packet: bytes) -> list[tuple[float, bytes]]:
        state = client.machine._state  # type: ignore[union-attr]
        return [] if isinstance(state, Conversation) and state.suspicion else [(0.01, packet)]

    world.to_client = deaf
    world.run(70)
    assert "no TLS handshake within 60 s (the server said nothing to our certificate: it may not accept it)" in notes(
        client
    )


@pytest.mark.parametrize("wrong", [{"age": 3 * DAY, "life": DAY}, {"age": -DAY}], ids=["expired", "not valid yet"])
def test_a_servers_certificate_outside_of_its_time_is_tried_again(pki: Pki, wrong: dict[str, Any]) -> None:
    """The clock of a machine that just woke up is wrong for a while: no reason to stop."""
    world = World(server_config(pki, identity=issued("vpn.example", **wrong)))
    client = world.client(client_config(pki, peer=PeerPolicy(ca_pem=made.pem(CA))))
    world.run(20)
    assert len(client.effects(c.OpenTransport)) >= 3 and not client.effects(c.Stop)
    assert "(is the clock right?)" in notes(client) and not client.effects(c.TunnelUp)


# --- what is revoked later


def serial_of(pem: Pem) -> int:
    return x509.load_pem_x509_certificate(pem.certificate.encode()).serial_number


class Revoking:
    """The files of a profile: they change, or cannot be read."""

    def __init__(self) -> None:
        self.serials: frozenset[int] = frozenset()
        self.broken = False

    def __call__(self) -> tuple[bytes, frozenset[int]]:
        if self.broken:
            raise ConfigError("cannot read the directory 'revoked'")
        return b"", self.serials


def test_a_renegotiation_reads_again_what_is_revoked(pki: Pki) -> None:
    files = Revoking()
    policy = PeerPolicy(ca_pem=pki.ca.encode(), revoked_serials=frozenset(), reread=files)
    world = World(server_config(pki))
    client = world.client(client_config(pki, peer=policy))
    connected(world, client)
    files.serials = frozenset({serial_of(pki.server)})
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    world.run(10)
    assert "is in the directory of crl-verify" in notes(client) and client.effects(c.TunnelDown)
    assert client.effects(c.Stop)[0].kind is c.StopKind.AUTH


def test_a_server_too(pki: Pki) -> None:
    files = Revoking()
    policy = PeerPolicy(ca_pem=pki.ca.encode(), revoked_serials=frozenset(), reread=files)
    world = World(server_config(pki, peer=policy))
    connected(world, world.client(client_config(pki)))
    files.serials = frozenset({serial_of(pki.client)})
    second = world.client(client_config(pki))
    world.run(10)
    assert not second.effects(c.TunnelUp) and "crl-verify" in notes(world.server)


def test_a_list_that_is_gone_leaves_revoked_what_was(pki: Pki) -> None:
    files = Revoking()
    files.broken = True
    policy = PeerPolicy(ca_pem=pki.ca.encode(), revoked_serials=frozenset({serial_of(pki.server)}), reread=files)
    client = World(server_config(pki)).client(client_config(pki, peer=policy))
    client.world.run(10)
    assert not client.effects(c.TunnelUp)
    assert notes(client).count("what was revoked before counts still: cannot read the directory 'revoked'") == 1
