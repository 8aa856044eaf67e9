# SPDX-License-Identifier: BSD-2-Clause
"""The plain host in a namespace: what is there while up, after down, after close.

    (namespace)   tunN    near ==veth== far     default via 10.0.0.254 on near
"""

from __future__ import annotations

import asyncio
import os
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, ip_network
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import (
    Common,
    Credentials,
    Detour,
    Dns,
    Family,
    Listen,
    NoWrap,
    PeerPolicy,
    Proto,
    Route,
    ServerConfig,
    TunnelSettings,
)
from qubes_miragevpn.runtime import resolver
from qubes_miragevpn.runtime.plain import journal, resolvconf
from qubes_miragevpn.runtime.plain.plainhost import Habits, PlainHost
from qubes_miragevpn.runtime.plain.recovery import recover
from qubes_miragevpn.runtime.plain.resolved import Resolved
from qubes_miragevpn.runtime.plain.serverhost import ServerHost
from tests.unit.runtime.netns import in_netns, ip, settled

SERVER = IPv4Address("192.0.2.1")
OTHER_SERVER = IPv4Address("198.51.100.1")
REDIRECTED = TunnelSettings(
    ipv4=IPv4Interface("10.8.0.2/24"), ipv6=IPv6Interface("fd08::2/64"), redirect=frozenset({"def1"}), mtu=1400
)


async def nobody(again: str) -> Credentials | None:
    return None


def network() -> str:
    """Build the namespace's network; return a picture of its routes."""
    for dev in ("near", "far"):
        if dev == "near":
            ip("link add near type veth peer name far")
        ip(f"link set {dev} addrgenmode none")
        ip(f"link set {dev} up")
    ip("addr add 10.0.0.1/24 dev near")
    ip("route add default via 10.0.0.254 dev near")
    settled("near", "far")
    return picture()


def picture() -> str:
    shown = ip("route show table all") + ip("-6 route show table all") + ip("-o link") + ip("-o addr")
    # the kernel adds those of IPv6 multicast when it sees fit
    return "\n".join(sorted(line for line in shown.splitlines() if not line.startswith("multicast")))


def routes() -> list[str]:
    return [" ".join(line.split()) for line in (ip("route") + ip("-6 route")).replace("proto static ", "").splitlines()]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own is used: no systemd-resolved, another resolv.conf, another place for journals."""
    monkeypatch.setattr(resolvconf, "RESOLV_CONF", tmp_path / "resolv.conf")
    monkeypatch.setattr(journal, "STATE", tmp_path / "journals")

    async def nothing() -> None:
        return None

    monkeypatch.setattr(Resolved, "find", nothing)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_a_redirected_client_up_changed_down_and_closed() -> None:
    async def run() -> None:
        before = network()
        host = PlainHost("tun", nobody)
        await host.before_transport(SERVER)
        descriptor = await host.up(REDIRECTED)
        assert descriptor > 2
        link = ip("link show tun0")
        assert "mtu 1400" in link and "qlen 1000" in link and ",UP" in link
        assert {"0.0.0.0/1 dev tun0 scope link", "128.0.0.0/1 dev tun0 scope link"} < set(routes())
        assert "192.0.2.1 via 10.0.0.254 dev near" in routes()
        assert "10.8.0.2/24" in ip("addr show tun0") and "fd08::2/64" in ip("addr show tun0")

        changed = TunnelSettings(ipv4=IPv4Interface("10.9.0.2/24"), routes=(Route(ip_network("10.66.0.0/16")),))
        assert await host.up(changed) == descriptor
        assert "10.66.0.0/16 dev tun0 scope link" in routes()
        assert not any(line.startswith(("0.0.0.0/1", "192.0.2.1")) for line in routes())
        assert "10.8.0.2" not in ip("addr show tun0") and "fd08::2" not in ip("addr show tun0")

        await host.down("gone")
        assert "10.66.0.0/16 dev tun0 scope link" not in routes()
        assert "tun0" in ip("link")
        await host.close()
        await host.close()
        assert picture() == before

        await host.before_transport(SERVER)
        await host.up(REDIRECTED)
        await host.close()
        assert picture() == before

    in_netns(run)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_a_default_route_that_was_replaced_is_back_after_down() -> None:
    async def run() -> None:
        before = network()
        host = PlainHost("vpn7", nobody)
        await host.before_transport(SERVER)
        await host.up(TunnelSettings(ipv4=IPv4Interface("10.8.0.2/24"), redirect=frozenset()))
        assert "default dev vpn7 scope link" in routes()
        await host.down("gone")
        assert [line for line in routes() if "default" in line] == ["default via 10.0.0.254 dev near"]
        await host.close()
        assert picture() == before

    in_netns(run)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_another_server_is_reached_around_the_tunnel_that_is_still_up() -> None:
    async def run() -> None:
        before = network()
        host = PlainHost("tun", nobody)
        await host.before_transport(SERVER)
        await host.up(REDIRECTED)
        await host.before_transport(OTHER_SERVER)
        assert "via 10.0.0.254 dev near" in ip(f"route get {OTHER_SERVER}")
        await host.up(REDIRECTED)
        assert "via 10.0.0.254 dev near" in ip(f"route get {OTHER_SERVER}")
        assert "dev tun0" in ip(f"route get {SERVER}"), "the old one is a stranger now"
        await host.close()
        assert picture() == before

    in_netns(run)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_point_to_point_block_ipv6_and_a_machine_without_ipv6() -> None:
    async def run() -> None:
        before = network()
        host = PlainHost("tun", nobody)
        await host.before_transport(IPv6Address("2001:db8::1"))  # no way there: nothing to keep
        pair = TunnelSettings(ipv4=IPv4Interface("10.8.0.6/32"), ipv4_peer=IPv4Address("10.8.0.5"), block_ipv6=True)
        await host.up(pair)
        assert "inet 10.8.0.6 peer 10.8.0.5/32" in ip("addr show tun0")
        assert len([line for line in routes() if line.startswith("unreachable")]) == 4
        Path("/proc/sys/net/ipv6/conf/tun0/disable_ipv6").write_text("1")
        await host.up(REDIRECTED)
        assert "inet6" not in ip("addr show tun0")
        await host.close()
        assert picture() == before

    in_netns(run)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_a_server_that_gives_no_address_is_refused_before_anything_is_made() -> None:
    async def run() -> None:
        before = network()
        host = PlainHost("tun", nobody)
        with pytest.raises(PeerError):
            await host.up(TunnelSettings())
        assert picture() == before
        await host.close()

    in_netns(run)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_the_servers_tun() -> None:
    async def run() -> None:
        before = network()
        common = Common(NoWrap(), None, PeerPolicy(), dev="tun", tun_mtu=1380)
        config = ServerConfig(common, Listen("", 1194, Proto.UDP), IPv4Network("10.8.0.0/24"))
        host = ServerHost(config)
        descriptor, name = await host.up()
        assert descriptor > 2
        assert "inet 10.8.0.1/24" in ip(f"addr show {name}") and "mtu 1380" in ip(f"link show {name}")
        await host.close()
        await host.close()
        assert picture() == before

    in_netns(run)


def test_credentials_are_kept_until_they_are_refused() -> None:
    asked: list[str] = []

    async def ask(again: str) -> Credentials | None:
        asked.append(again)
        return Credentials(f"user{len(asked)}", Secret(b"x"))

    async def run(keep: bool) -> list[str]:
        host = PlainHost("tun", ask, Habits(keep_credentials=keep))
        given = [await host.credentials(again) for again in ("", "", "wrong", "")]
        await host.close()
        return [each.username for each in given if each]

    assert asyncio.run(run(True)) == ["user1", "user1", "user2", "user2"]
    assert asyncio.run(run(False)) == ["user3", "user4", "user5", "user6"]
    assert asked == ["", "wrong", "", "", "wrong", ""]


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_detours_lead_around_the_tunnel() -> None:
    settings = TunnelSettings(
        ipv4=IPv4Interface("10.8.0.2/24"),
        redirect=frozenset({"def1"}),
        detours=(
            Detour(IPv4Network("198.51.100.0/24")),
            Detour(IPv4Network("203.0.113.0/24"), IPv4Address("10.0.0.7"), 9),
            Detour(None),
            Detour(ip_network("2001:db8::/32")),  # there is no such way here
        ),
    )

    async def run() -> None:
        before = network()
        host = PlainHost("tun", nobody)
        await host.before_transport(SERVER)
        await host.up(settings)
        assert {
            "198.51.100.0/24 via 10.0.0.254 dev near",
            "203.0.113.0/24 via 10.0.0.7 dev near metric 9",
            "10.0.0.254 dev near scope link",
        } < set(routes())
        assert not any("2001:db8" in line for line in routes())
        await host.close()
        assert picture() == before

    in_netns(run)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_with_persist_tun_nothing_goes_around_the_tunnel_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        before = network()
        host = PlainHost("tun", nobody, Habits(keep_routes=True))
        await host.before_transport(SERVER)
        await host.up(REDIRECTED)
        up = routes()
        await host.down("reconnecting")
        assert routes() == up
        await host.before_transport(OTHER_SERVER)
        assert "198.51.100.1 via 10.0.0.254 dev near" in routes() and "0.0.0.0/1 dev tun0 scope link" in routes()
        await host.up(REDIRECTED)
        assert "192.0.2.1 via 10.0.0.254 dev near" not in routes()
        await host.close()
        assert picture() == before

    in_netns(run)


@pytest.mark.needs_root
def test_the_last_addresses_of_a_name_while_the_resolver_is_behind_the_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[list[IPv4Address]] = [[SERVER]]

    async def resolve(host: str, family: Family) -> list[IPv4Address]:
        if not answers:
            raise OSError(2, "no")
        return answers.pop(0)

    monkeypatch.setattr(resolver, "resolve", resolve)

    async def run() -> None:
        network()
        host = PlainHost("tun", nobody, Habits(keep_routes=True))
        assert await host.resolve("vpn.example", Family.ANY) == [SERVER]
        with pytest.raises(OSError, match="no"):  # the resolver is the machine's own: what it says counts
            await host.resolve("vpn.example", Family.ANY)
        await host.before_transport(SERVER)
        await host.up(REDIRECTED)
        await host.down("gone")
        assert await host.resolve("vpn.example", Family.ANY) == [SERVER]
        with pytest.raises(OSError, match="no"):
            await host.resolve("other.example", Family.ANY)
        await host.close()

    in_netns(run)


@pytest.mark.needs_root
@pytest.mark.needs_tun
@pytest.mark.parametrize("redirect", [frozenset(), frozenset({"def1"})])
def test_what_a_crash_leaves_is_undone_at_the_next_start(redirect: frozenset[str], tmp_path: Path) -> None:
    settings = TunnelSettings(
        ipv4=IPv4Interface("10.8.0.2/24"),
        redirect=redirect,
        detours=(Detour(IPv4Network("198.51.100.0/24")),),
        dns=Dns((IPv4Address("10.8.0.1"),), ("corp.example",)),
    )
    conf = tmp_path / "resolv.conf"
    conf.symlink_to("elsewhere")
    (tmp_path / "elsewhere").write_text("nameserver 9.9.9.9\n")

    async def elsewhere() -> None:
        assert await recover() == 0, "nothing that a client in another namespace could undo"

    async def run() -> None:
        before = network()
        host = PlainHost("tun", nobody)
        await host.before_transport(SERVER)
        await host.up(settings)
        assert "nameserver 10.8.0.1\nsearch corp.example\n" in conf.read_text() and not conf.is_symlink()
        assert await recover() == 0, "its client runs"
        host._tun.close()  # as the kernel does for a process that is killed  # type: ignore[union-attr]
        os.close(host._journal._fd)
        await host._netconf.close()
        assert picture() != before
        in_netns(elsewhere)
        assert await recover() == 1
        assert picture() == before
        assert conf.is_symlink() and conf.read_text() == "nameserver 9.9.9.9\n"
        assert await recover() == 0

    in_netns(run)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_an_interface_that_others_set_up_is_only_opened() -> None:
    async def run() -> None:
        network()
        ip("tuntap add dev ready7 mode tun")
        ip("addr add 10.8.0.2/24 dev ready7")
        before = picture()
        host = PlainHost("ready7", nobody, Habits(addresses=False, routes=False))
        await host.before_transport(SERVER)
        assert await host.up(REDIRECTED) > 2
        assert [line for line in routes() if "ready7" not in line] == [
            "default via 10.0.0.254 dev near", "10.0.0.0/24 dev near proto kernel scope link src 10.0.0.1"
        ]  # fmt: skip
        await host.close()
        assert picture() == before

    in_netns(run)
