# SPDX-License-Identifier: BSD-2-Clause
"""The static key role, played: this event in, these effects out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from qubes_miragevpn.config.building.trust import Surroundings
from qubes_miragevpn.config.loader import load_static
from qubes_miragevpn.config.model import StaticConfig
from qubes_miragevpn.dataplane.inband import OCC_EXIT
from qubes_miragevpn.dataplane.interface import Floated, KeyExhausted, PeerExited, PeerSilent
from qubes_miragevpn.protocol.contract import (
    NOWHERE,
    ActivateKey,
    AddPeer,
    AwaitTransport,
    CloseTransport,
    Command,
    CountTraffic,
    Effect,
    InstallKey,
    NameResolved,
    Notify,
    OpenTransport,
    PacketReceived,
    RemovePeer,
    ResolutionFailed,
    Resolve,
    SendInner,
    Stop,
    StopKind,
    TimerExpired,
    TrafficCounted,
    TransportDown,
    TransportUp,
    TunnelDown,
    TunnelUp,
    UserCommand,
)
from qubes_miragevpn.protocol.inquiry import ASK
from qubes_miragevpn.protocol.static import StaticKeyPeer
from tests.unit.config.texts import STATIC_KEY, read_file

TEXT = """dev tun
secret ta.key 1
cipher AES-256-CBC
auth SHA256
ifconfig 10.1.0.2 10.1.0.1
remote 192.0.2.1 5000
allow-deprecated-insecure-static-crypto
"""
ENDPOINT = ("192.0.2.1", 5000)
CONNECT, RECONNECT, DISCONNECT = (
    UserCommand(command) for command in (Command.CONNECT, Command.RECONNECT, Command.DISCONNECT)
)


def config(more: str = "", text: str = TEXT) -> StaticConfig:
    loaded = load_static(
        (text + more).encode(), file="k.conf", read_file=read_file, surroundings=Surroundings(around=True)
    )
    return loaded.config


def machine(more: str = "", text: str = TEXT) -> StaticKeyPeer:
    clock = iter(range(1000, 2000))
    return StaticKeyPeer(config(more, text), entropy=bytes, unix_time=lambda: next(clock))


def silent(effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if not isinstance(effect, Notify)]


def up(peer: StaticKeyPeer, now: float = 0.0) -> list[Effect]:
    (opened,) = silent(peer.handle(CONNECT, now))
    assert isinstance(opened, OpenTransport)
    return peer.handle(TransportUp(opened.link, ENDPOINT), now)


def test_a_tunnel_as_soon_as_there_is_a_transport() -> None:
    peer = machine("keepalive 10 60\nroute 10.9.0.0 255.255.0.0\n")
    (opened,) = silent(peer.handle(CONNECT, 0.0))
    assert opened == OpenTransport(
        1,
        opened.proto,
        IPv4Address("192.0.2.1"),
        5000,
        opened.local,  # type: ignore[union-attr]
    )
    add, install, activate, tunnel = peer.handle(TransportUp(1, ENDPOINT), 0.0)
    assert isinstance(add, AddPeer) and add.limits.bare and (add.limits.ping, add.limits.silence) == (10, 60)
    assert isinstance(install, InstallKey) and activate == ActivateKey(1, 0)
    keys = install.keys
    # direction 1: the second half to send with, the first to receive with; only as much of each as is needed
    assert keys.send.cipher_key.reveal() == STATIC_KEY[128:160] and keys.send.hmac_key.reveal() == STATIC_KEY[192:224]
    assert keys.receive.cipher_key.reveal() == STATIC_KEY[:32] and keys.receive.hmac_key.reveal() == STATIC_KEY[64:96]
    assert (keys.suite, keys.digest, keys.since) == ("AES-256-CBC", "SHA256", 1000)
    assert isinstance(tunnel, TunnelUp) and tunnel.settings.ipv4 == IPv4Interface("10.1.0.2/32")
    assert tunnel.settings.ipv4_peer == IPv4Address("10.1.0.1") and len(tunnel.settings.routes) == 1


@pytest.mark.parametrize(("direction", "send", "receive"), [("", 0, 0), (" 0", 0, 128), (" 1", 128, 0)])
def test_directions(direction: str, send: int, receive: int) -> None:
    effects = up(machine(text=TEXT.replace("ta.key 1", f"ta.key{direction}")))
    (install,) = (effect for effect in effects if isinstance(effect, InstallKey))
    assert install.keys.send.cipher_key.reveal() == STATIC_KEY[send : send + 32]
    assert install.keys.receive.cipher_key.reveal() == STATIC_KEY[receive : receive + 32]


@pytest.mark.parametrize("event", [PeerSilent(1), PeerExited(1), KeyExhausted(1, 0), TransportDown(1, "gone")])
def test_an_end_is_followed_by_a_pause_and_a_newer_numbering(event: object) -> None:
    peer = machine("ping-restart 30\n")
    (first,) = (effect for effect in up(peer) if isinstance(effect, InstallKey))
    down, removed, closed = silent(peer.handle(event, 10.0))  # type: ignore[arg-type]
    assert isinstance(down, TunnelDown) and removed == RemovePeer(1) and closed == CloseTransport(1)
    wait = peer.next_deadline()
    assert wait is not None and wait >= 11.0
    assert silent(peer.handle(TimerExpired(), wait - 0.1)) == []
    (opened,) = silent(peer.handle(TimerExpired(), wait))
    assert isinstance(opened, OpenTransport)
    effects = peer.handle(TransportUp(opened.link, ENDPOINT), wait)
    (second,) = (effect for effect in effects if isinstance(effect, InstallKey))
    assert second.keys.since > first.keys.since


def test_a_clock_that_stands_still_does_not_repeat_a_numbering() -> None:
    peer = StaticKeyPeer(config(), entropy=bytes, unix_time=lambda: 1000)
    times = []
    for now in range(3):
        effects = up(peer) if now == 0 else peer.handle(TransportUp(now + 1, ENDPOINT), now)
        times += [effect.keys.since for effect in effects if isinstance(effect, InstallKey)]
        assert CloseTransport(now + 1) in peer.handle(RECONNECT, now)
    assert times == [1000, 1001, 1002]


def test_ping_exit_ends_for_good() -> None:
    peer = machine("ping-exit 30\n")
    up(peer)
    assert silent(peer.handle(PeerSilent(1), 10.0))[-1] == Stop(
        StopKind.CONNECTION, "the other end fell silent (ping-exit)"
    )
    assert peer.handle(CONNECT, 11.0) == []


def test_goodbye() -> None:
    peer = machine("explicit-exit-notify 2\n")
    up(peer)
    assert peer.handle(DISCONNECT, 1.0) == [SendInner(1, OCC_EXIT)]
    assert peer.handle(RECONNECT, 1.5) == [] == peer.handle(TimerExpired(), 1.5)
    assert peer.next_deadline() == 2.0
    effects = peer.handle(TimerExpired(), 2.0)
    assert effects[0] == SendInner(1, OCC_EXIT) and effects[-1] == Stop(StopKind.ASKED, "disconnected")


def test_whoever_asks_twice_leaves_at_once() -> None:
    peer = machine("explicit-exit-notify 5\n")
    up(peer)
    peer.handle(DISCONNECT, 1.0)
    effects = peer.handle(DISCONNECT, 1.5)
    assert SendInner(1, OCC_EXIT) not in effects and isinstance(effects[-1], Stop)


def test_inactive_and_session_timeout() -> None:
    peer = machine("inactive 16\n")
    up(peer)
    assert peer.handle(TimerExpired(), 1.0) == [SendInner(1, ASK), CountTraffic(1)]
    assert peer.handle(TrafficCounted(1, 100), 1.0) == [] == peer.handle(TrafficCounted(1, 100), 16.5)
    assert peer.handle(TrafficCounted(1, 100), 17.0)[-1] == Stop(
        StopKind.CONNECTION, "next to nothing was carried for too long (inactive)"
    )
    peer = machine("session-timeout 50\nexplicit-exit-notify\n")
    up(peer)
    assert peer.next_deadline() == 0.0, "the other end is asked for its settings at once"
    effects = peer.handle(TimerExpired(), 50.0)
    assert SendInner(1, OCC_EXIT) in effects and "session-timeout" in effects[-1].reason  # type: ignore[union-attr]


def test_names_are_looked_up_and_late_answers_forgotten() -> None:
    peer = machine(text=TEXT.replace("192.0.2.1", "peer.example"))
    (asked,) = silent(peer.handle(CONNECT, 0.0))
    assert isinstance(asked, Resolve) and asked.host == "peer.example"
    assert peer.handle(NameResolved(asked.request + 7, (IPv4Address("192.0.2.1"),)), 0.0) == []
    (opened,) = silent(peer.handle(NameResolved(asked.request, (IPv4Address("192.0.2.1"),)), 0.0))
    assert isinstance(opened, OpenTransport)
    assert peer.handle(ResolutionFailed(asked.request, "late"), 0.0) == []
    assert peer.handle(TransportUp(opened.link + 7, ENDPOINT), 0.0) == []
    assert peer.handle(PacketReceived(opened.link, ENDPOINT, b"x"), 0.0) == []
    deadline = peer.next_deadline()
    assert deadline is not None
    assert CloseTransport(opened.link) in peer.handle(TimerExpired(), deadline)


def test_a_configuration_that_makes_no_tunnel_ends() -> None:
    broken = replace(config(), tunnel=("topology subnet", "ifconfig 10.1.0.2 10.1.0.1"))
    peer = StaticKeyPeer(broken, entropy=bytes, unix_time=lambda: 1000)
    assert isinstance(up(peer)[-1], Stop)


# --- an end that waits


def waiting(text: str) -> tuple[StaticKeyPeer, int]:
    peer = machine(text=TEXT.replace("remote 192.0.2.1 5000", text))
    (asked,) = silent(peer.handle(CONNECT, 0.0))
    assert isinstance(asked, AwaitTransport) and peer.next_deadline() is None
    return peer, asked.link


def test_on_udp_whoever_shows_the_key_is_the_other_end() -> None:
    peer, link = waiting("# ping-restart 20\nping-restart 20")
    added, installed = silent(peer.handle(TransportUp(link, NOWHERE), 0.0))
    assert isinstance(added, AddPeer) and added.limits.floats and not added.limits.silence
    assert isinstance(installed, InstallKey), "but nothing is sent before there is somebody"
    effects = silent(peer.handle(Floated(1, ENDPOINT), 5.0))
    assert [type(effect) for effect in effects] == [RemovePeer, AddPeer, InstallKey, ActivateKey, TunnelUp]
    again = effects[1]
    assert isinstance(again, AddPeer) and again.endpoint == ENDPOINT and again.limits.silence == 20
    assert not again.limits.floats
    lost = silent(peer.handle(PeerSilent(1), 30.0))
    assert [type(effect) for effect in lost] == [TunnelDown, RemovePeer, CloseTransport]
    (asked,) = silent(peer.handle(TimerExpired(), peer.next_deadline() or 0.0))
    assert isinstance(asked, AwaitTransport)


def test_on_tcp_a_connection_is_the_other_end() -> None:
    peer, link = waiting("proto tcp-server\nremote 192.0.2.1")
    effects = silent(peer.handle(TransportUp(link, ENDPOINT), 1.0))
    assert [type(effect) for effect in effects] == [AddPeer, InstallKey, ActivateKey, TunnelUp]
    lost = silent(peer.handle(TransportDown(link, "closed"), 2.0))
    assert [type(effect) for effect in lost] == [TunnelDown, RemovePeer, CloseTransport]


def test_an_end_that_waits_can_be_ended_and_is_not_disturbed_by_another_uplink() -> None:
    peer, link = waiting("proto tcp-server")
    assert peer.handle(RECONNECT, 1.0) == []
    assert peer.handle(DISCONNECT, 2.0) == [CloseTransport(link), Stop(StopKind.ASKED, "disconnected")]
    peer, link = waiting("# nobody")
    peer.handle(TransportUp(link, NOWHERE), 0.0)
    assert RemovePeer(1) in peer.handle(DISCONNECT, 2.0)
