# SPDX-License-Identifier: BSD-2-Clause
"""The NAT of servers: its table as nft reads it, a machine that cannot have it, and servers that share an uplink."""

from __future__ import annotations

import asyncio
import subprocess
from ipaddress import ip_network
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.runtime.plain import nft
from qubes_miragevpn.runtime.plain.nat import Nat, _table
from tests.unit.runtime.netns import in_netns, ip

NETWORKS = (ip_network("10.8.0.0/24"), ip_network("fd42:8::/64"))
CONF = Path("/proc/sys/net")


@pytest.mark.parametrize("switched", ["eth0", ""])
def test_the_table(switched: str) -> None:
    text = _table("tun0", "eth0", switched, NETWORKS)
    assert 'ip saddr 10.8.0.0/24 oifname "eth0" masquerade' in text
    assert 'ip6 saddr fd42:8::/64 oifname "eth0" masquerade' in text
    assert ('elements = { "eth0" }' in text) is bool(switched), "what was open before stays as its owner has it"
    assert text.count("{") == text.count("}")


@pytest.mark.needs_root
def test_without_the_interface_nothing_is_begun() -> None:
    async def run() -> None:
        nat = Nat("tun9", NETWORKS)
        with pytest.raises(SystemRefused, match="no interface eth7"):
            await nat.up("eth7")
        await nat.close()

    in_netns(run)


def machine(forwards6: bool = False) -> None:
    """Two uplinks that forward nothing and take router advertisements, and three TUNs."""
    for dev in ("up0", "up1", "tun1", "tun2", "tun3"):
        ip(f"tuntap add dev {dev} mode tun")
        (CONF / f"ipv4/conf/{dev}/forwarding").write_text("0")
    for dev in ("up0", "up1"):
        (CONF / f"ipv6/conf/{dev}/accept_ra").write_text("1")
    (CONF / "ipv6/conf/all/forwarding").write_text(str(int(forwards6)))


def forwarding(dev: str = "up0") -> bool:
    return (CONF / f"ipv4/conf/{dev}/forwarding").read_text().strip() == "1"


def forwarding6() -> tuple[str, str]:
    """Of the machine, and whether the first uplink still takes advertisements."""
    files = ("all/forwarding", "up0/accept_ra")
    machine_wide, advertisements = ((CONF / "ipv6/conf" / file).read_text().strip() for file in files)
    return machine_wide, advertisements


def tables() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def closed() -> bool:
    """Whether nobody outside begins a connection to anybody inside, in either family."""
    return 'iifname @switched ct state' in tables() and "iifname != @inside" in tables()


@pytest.mark.needs_root
@pytest.mark.time_limit(120)
def test_servers_on_one_uplink_do_not_undo_each_others() -> None:
    """Whoever goes first or last: it stays open to clients and closed to others until then."""

    async def run() -> None:
        machine()
        for order in ((0, 1, 2), (1, 2, 0), (2, 1, 0)):
            servers = [Nat(f"tun{n}", NETWORKS) for n in (1, 2, 3)]
            await asyncio.gather(*(each.up("up0") for each in servers))
            for n in order:
                assert forwarding() and forwarding6() == ("1", "2") and closed() and not forwarding("up1")
                await servers[n].close()
            assert not forwarding() and forwarding6() == ("0", "1") and not forwarding("tun1")
            assert "miragevpn" not in tables()

    in_netns(run)


@pytest.mark.needs_root
def test_on_two_uplinks() -> None:
    async def run() -> None:
        machine()
        one, two = Nat("tun1", NETWORKS[:1]), Nat("tun2", NETWORKS[:1])
        await one.up("up0")
        await two.up("up1")
        assert forwarding("up0") and forwarding("up1") and forwarding6() == ("0", "1"), "nobody asked for IPv6"
        await one.close()
        assert not forwarding("up0") and forwarding("up1")
        await two.close()
        assert not forwarding("up1")

    in_netns(run)


@pytest.mark.needs_root
def test_ipv4_is_closed_again_even_if_ipv6_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        machine()
        nat = Nat("tun1", NETWORKS)
        await nat.up("up0")
        await nft.nft("delete", "table", "inet", "miragevpn-forward6")
        await nft.nft("add", "table", "inet", "miragevpn-forward6")  # somebody's own, without our sets
        await nat.close()
        assert not forwarding() and not forwarding("tun1") and "miragevpn-nat" not in tables()
        assert "not undone" in caplog.text

    in_netns(run)


@pytest.mark.needs_root
@pytest.mark.parametrize("shared", [True, False])
def test_what_a_killed_server_left(shared: bool) -> None:
    """The next start undoes it, but for what one that runs relies on; and that one undoes the rest at its end."""

    async def run() -> None:
        machine()
        killed, running, later = (Nat(f"tun{n}", NETWORKS) for n in (1, 2, 3))
        await killed.up("up0")
        if shared:
            await running.up("up0")
        ip("link del tun1")
        await later.up("up1")
        assert forwarding() is shared and "nat-tun1" not in tables() and forwarding6() == ("1", "2")
        await later.close()
        assert forwarding6() == (("1", "2") if shared else ("0", "1"))
        await running.close()
        assert not forwarding() and forwarding6() == ("0", "1") and "miragevpn" not in tables()

    in_netns(run)


@pytest.mark.needs_root
def test_what_the_machine_forwards_by_itself_is_left_so() -> None:
    async def run() -> None:
        machine(forwards6=True)
        (CONF / "ipv4/conf/up0/forwarding").write_text("1")
        (CONF / "ipv4/conf/tun1/forwarding").write_text("1")
        one = Nat("tun1", NETWORKS)
        await one.up("up0")
        assert "elements" not in tables() and "@inside" not in tables() and forwarding6() == ("1", "1")
        await one.close()
        assert forwarding() and forwarding("tun1") and forwarding6() == ("1", "1")

    in_netns(run)


@pytest.mark.needs_root
def test_one_waits_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        order = []

        async def change(name: str) -> None:
            async with nft.alone():
                order.append(name)
                await asyncio.sleep(0)
                order.append(name)

        await asyncio.gather(*(change(name) for name in "abc"))
        assert [order[n] == order[n + 1] for n in (0, 2, 4)] == [True] * 3
        monkeypatch.setattr(nft, "TIMEOUT", 0.0)
        async with nft.alone():
            with pytest.raises(SystemRefused, match="another server"):
                async with nft.alone():
                    pass

    in_netns(run)
