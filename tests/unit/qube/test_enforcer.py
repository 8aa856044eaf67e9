# SPDX-License-Identifier: BSD-2-Clause
"""The barriers in a real kernel: loaded, read back, healed; and which way packets would go in each state.

    (namespace)   far ==veth== eth0 10.137.0.6/32, gateway 10.137.0.5
                  qube ==veth== vif21.0, AppVM 10.137.0.21 and fd09:24ef:4179::a89:15
                  vpn0, a TUN
"""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.qube.firewall.conntrack import forget_flows
from qubes_miragevpn.qube.firewall.enforcer import Enforcer
from qubes_miragevpn.qube.firewall.nft import FirewallError, NftTable, differences
from qubes_miragevpn.qube.firewall.routing import OUR_PRIORITIES, backstop, rules
from qubes_miragevpn.qube.firewall.table import CLOSED, FirewallDemand, OpenTunnel, chains, render
from qubes_miragevpn.qube.firewall.uplink import NO_UPLINK, Address, Uplink, another
from qubes_miragevpn.qube.firewall.watch import NFTABLES, RULES, ChangeSignal
from qubes_miragevpn.qube.states import Demand, Live, State, demand
from qubes_miragevpn.runtime.netlink.netconf import Netconf, NetRoute
from qubes_miragevpn.runtime.tun import open_tun
from tests.unit.runtime.netns import in_netns, ip

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

INSTALL = Path(__file__).parents[3] / "install" / "vm"
GATEWAY, APPVM4, APPVM6 = "10.137.0.5", "10.137.0.21", "fd09:24ef:4179::a89:15"
LIVE = Live((ip_address("10.8.0.2"), ip_address("2001:db8::2")), (ip_address("10.8.0.1"),))  # type: ignore[arg-type]
CONNECTED = demand(State.CONNECTED, LIVE)

Play = Callable[["Stage"], Awaitable[None]]


class Stage:
    """The namespace's interfaces, and an enforcer."""

    def __init__(self) -> None:
        for line in f"""
link add eth0 type veth peer name far
link set far up
link set eth0 up
address add 10.137.0.6/32 dev eth0
route add {GATEWAY} dev eth0 scope link
link add vif21.0 type veth peer name qube
link set qube up
link set vif21.0 group 2 up
address add 10.137.0.6/32 dev vif21.0
route add {APPVM4} dev vif21.0
-6 route add {APPVM6} dev vif21.0""".strip().splitlines():
            ip(line)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        self.default()
        self.told: dict[int, Address] = {}
        self.netconf = Netconf()
        self.uplink = Uplink("eth0", self.netconf, self._gateway)
        self.nft = NftTable()
        self.enforcer = Enforcer(self.netconf, self.uplink, {0: None}, self.nft)

    async def _gateway(self, version: int) -> Address | None:
        return self.told.get(version)

    def default(self) -> None:
        """What setup-ip does."""
        ip(f"route replace default via {GATEWAY} dev eth0 onlink")
        ip("-6 route replace default via fe80::1 dev eth0 onlink")


def staged(play: Play) -> None:
    async def inside() -> None:
        stage = Stage()
        try:
            await play(stage)
        finally:
            await stage.netconf.close()

    in_netns(inside)


def goes(to: str, *how: str) -> str:
    """The interface by which the kernel would send a packet, or "nowhere"."""
    found = subprocess.run(["ip", "route", "get", to, *how], capture_output=True, text=True, check=False)
    words = found.stdout.split()
    return words[words.index("dev") + 1] if found.returncode == 0 and "dev" in words else "nowhere"


FROM_APPVM = ("from", APPVM4, "iif", "vif21.0")
FROM_APPVM6 = ("from", APPVM6, "iif", "vif21.0")
MARKED = ("mark", "0x51564d")


def nft(*arguments: str) -> str:
    return subprocess.run(["nft", *arguments], capture_output=True, text=True, check=True).stdout


def ways() -> dict[str, str]:
    """Where packets of every kind would go."""
    return {
        "appvm": goes("198.51.100.1", *FROM_APPVM),
        "appvm6": goes("2001:db8:1::1", *FROM_APPVM6),
        "own": goes("198.51.100.1"),
        "own6": goes("2001:db8:1::1"),
        "transport": goes("198.51.100.1", *MARKED),
        "uplink": goes("198.51.100.1", "from", "203.0.113.1", "iif", "eth0"),
        "uplink to appvm": goes(APPVM4, "from", "203.0.113.1", "iif", "eth0"),
        "own to appvm": goes(APPVM4),
        "own to appvm6": goes(APPVM6),
    }


CLOSED_WAYS = {
    "appvm": "nowhere", "appvm6": "nowhere", "own": "nowhere", "own6": "nowhere", "transport": "eth0",
    "uplink": "nowhere", "uplink to appvm": "nowhere", "own to appvm": "vif21.0", "own to appvm6": "vif21.0",
}  # fmt: skip
OPEN_WAYS = {**CLOSED_WAYS, "appvm": "vpn0", "appvm6": "vpn0"}


def test_the_ways_of_a_qube_without_lockdown() -> None:
    """The control: the same questions have other answers before anything is locked."""

    async def play(stage: Stage) -> None:
        assert ways()["appvm"] == ways()["own"] == "eth0"

    staged(play)


def test_ways_in_each_state() -> None:
    async def play(stage: Stage) -> None:
        signature = await stage.enforcer.start()
        assert signature[1] == ((4, GATEWAY), (6, "fe80::1"))
        assert ways() == CLOSED_WAYS
        tun = open_tun("vpn0")
        ip("link set vpn0 up")
        await stage.enforcer.enforce(0, CONNECTED)
        assert ways() == OPEN_WAYS
        assert goes(APPVM4, "from", "198.51.100.1", "iif", "vpn0") == "vif21.0"
        assert goes("203.0.113.9", "from", "198.51.100.1", "iif", "vpn0") == "nowhere", "the tunnel is no transit"
        ip("route add default dev eth0")  # somebody puts a way out into main: no packet looks at it
        assert ways() == OPEN_WAYS
        ip("route del default dev eth0")
        ip("link set vpn0 down")
        assert ways() == CLOSED_WAYS and not await stage.enforcer.routes_present(0)
        ip("link set vpn0 up")
        tun.close()
        assert ways() == CLOSED_WAYS
        await stage.enforcer.enforce(0, demand(State.FAILED))
        assert ways() == CLOSED_WAYS and await stage.enforcer.routes_present(0)

    staged(play)


def test_the_lockdown_script_sets_the_same_rules() -> None:
    """Closed by the script alone; the service finds nothing to change."""

    async def play(stage: Stage) -> None:
        script = INSTALL / "qubes-miragevpn-lockdown"
        file = INSTALL / "nft" / f"{script.name}.nft"
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MIRAGEVPN_NFT_FILE": str(file)}
        for _ in range(2):  # the second time changes nothing
            subprocess.run(["sh", str(script), "all"], env=environment, check=True, timeout=10)
            assert ways() == CLOSED_WAYS
            there = [rule for rule in await stage.netconf.rules() if rule.priority in OUR_PRIORITIES]
            assert sorted(there, key=repr) == sorted((*rules("eth0", {0: None}), *backstop()), key=repr)

        def everything() -> str:  # but what the kernel adds by itself, as when it is sure of a link-local address
            routes = [line for line in ip("route show table all").splitlines() if "proto kernel" not in line]
            shown = [ip("rule show"), ip("-6 rule show"), *routes, nft("-s", "list", "ruleset")]
            return "\n".join(shown).replace(" proto boot", "").replace(" proto static", "")

        before = everything()
        await stage.enforcer.start()
        assert everything() == before

    staged(play)


def test_the_script_leaves_the_rules_of_several_tunnels_as_they_are() -> None:
    """It runs at each restart of qubes-firewall: the unassigned stay without a way, and flows are kept."""

    async def play(stage: Stage) -> None:
        await stage.enforcer.start()
        await stage.enforcer.assign({0: frozenset(), 1: frozenset({"vif21.0"})})
        before = ip("rule show"), ip("-6 rule show")
        script = INSTALL / "qubes-miragevpn-lockdown"
        subprocess.run(["sh", str(script)], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, check=True, timeout=10)
        assert (ip("rule show"), ip("-6 rule show")) == before

    staged(play)


def test_a_table_that_does_not_load_leaves_the_other_barriers(tmp_path: Path) -> None:
    """A kernel without one of nft's modules: the script fails, and has set rules and routes all the same."""

    async def play(stage: Stage) -> None:
        stage.default()
        file = tmp_path / "broken.nft"
        file.write_text("table inet qubes-miragevpn {\n\tchain x { no-such-word }\n}\n")
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MIRAGEVPN_NFT_FILE": str(file)}
        command = ["sh", str(INSTALL / "qubes-miragevpn-lockdown"), "all"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=10)
        assert done.returncode == 1 and done.stderr.endswith("the closed table could not be loaded\n")
        assert ways() == CLOSED_WAYS
        there = [rule for rule in await stage.netconf.rules() if rule.priority in OUR_PRIORITIES]
        assert sorted(there, key=repr) == sorted((*rules("eth0", {0: None}), *backstop()), key=repr)

    staged(play)


@pytest.mark.parametrize("how", ["script", "service"])
def test_main_leads_downstream_and_nowhere_else(how: str) -> None:
    """With neither table nor rules: no default, not the gateway, not a network on the uplink's or another link."""

    async def play(stage: Stage) -> None:
        ip("address add 192.168.9.2/24 dev eth0")
        ip("-6 route add fd09:24ef:4179::a89:5 dev eth0")
        ip("link add ens7 type veth peer name far7")
        ip("link set far7 up")
        ip("link set ens7 up")
        ip("address add 192.168.77.2/24 dev ens7")
        ip("route add default via 192.168.77.1 dev ens7 metric 50")
        if how == "script":
            script = INSTALL / "qubes-miragevpn-lockdown"
            subprocess.run(["sh", str(script)], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, check=True, timeout=10)
        else:
            await stage.enforcer.start()
        nft("flush", "ruleset")
        for family in ("", "-6 "):
            ip(f"{family}rule flush")
            ip(f"{family}rule add pref 32766 lookup main")
        for to in ("198.51.100.1", GATEWAY, "192.168.9.1", "192.168.77.1"):
            assert goes(to) == goes(to, *FROM_APPVM) == "nowhere"
        for to in ("2001:db8:1::1", "fd09:24ef:4179::a89:5"):
            assert goes(to) == goes(to, *FROM_APPVM6) == "nowhere"
        assert goes(APPVM4) == goes(APPVM6) == "vif21.0"
        for family in ("-4", "-6"):
            assert len(ip(f"{family} route show table 5156 default dev eth0").splitlines()) == 1

    staged(play)


def test_the_gateway_that_has_but_a_host_route() -> None:
    """What setup-ip leaves with the service flag ``disable-default-route``; the qube's own address is no gateway."""

    async def play(stage: Stage) -> None:
        ip("route del default")
        ip("-6 route del default")
        ip("address add fd09:24ef:4179::a89:6/128 dev eth0 nodad")
        ip("-6 route add fd09:24ef:4179::a89:5 dev eth0")
        signature = await stage.enforcer.start()
        assert signature[1] == ((4, GATEWAY), (6, "fd09:24ef:4179::a89:5"))
        assert ways() == CLOSED_WAYS

    staged(play)


@pytest.mark.parametrize("late", ["link set eth0 up", "link add eth0 type veth peer name far"])
def test_an_uplink_that_is_set_up_while_it_is_looked_at(late: str) -> None:
    """Its routes are there when they are read, and it was not (up) when it was looked at just before: not forgotten."""

    async def play(stage: Stage) -> None:
        await stage.enforcer.start()
        ip("link set eth0 down" if late == "link set eth0 up" else "link delete eth0")
        await stage.uplink.keep()
        routes = stage.netconf.routes
        setting_up = [late, "link set eth0 up", "address replace 10.137.0.6/32 dev eth0",
                      "route replace 10.137.0.1 dev eth0 scope link"]  # fmt: skip

        async def set_up_first(*arguments: Any) -> list[NetRoute]:
            while setting_up:
                ip(setting_up.pop(0))
            return await routes(*arguments)

        stage.netconf.routes = set_up_first  # type: ignore[method-assign]
        signature = await stage.uplink.keep()
        assert (4, "10.137.0.1") in signature[1]
        await stage.uplink.pin(IPv4Address("198.51.100.1"), "vpn0")

    staged(play)


def test_rules_alone_keep_own_packets_from_the_netvm() -> None:
    """Qubes' script has put every route back, and the table is gone."""

    async def play(stage: Stage) -> None:
        ip("link set eth0 group 1")
        await stage.enforcer.start()
        nft("flush", "ruleset")
        ip(f"route add {GATEWAY} dev eth0 scope link")
        ip("address add 192.168.9.2/24 dev eth0")
        ip("link add ens7 type veth peer name far7")
        ip("link set ens7 up")
        ip("link set far7 up")
        ip("address add 192.168.77.2/24 dev ens7")
        stage.default()
        for to in ("198.51.100.1", GATEWAY, "192.168.9.1", "192.168.77.1"):
            assert goes(to) == goes(to, *FROM_APPVM) == "nowhere"

    staged(play)


def test_the_script_refuses_a_wrong_uplink() -> None:
    done = subprocess.run(
        ["sh", str(INSTALL / "qubes-miragevpn-lockdown")],
        env={"PATH": "/usr/bin:/bin", "MIRAGEVPN_UPLINK": "eth0; reboot"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "not the name of an interface" in done.stderr


MANY = tuple(map(ip_address, ("10.8.0.1", "9.9.9.9", "1.1.1.1", "2001:db8::53", "2001:db8::54", "2001:db8::55")))
DEMANDS = [
    CLOSED,
    FirewallDemand(marked=True),
    FirewallDemand(True, (OpenTunnel("vpn0", 1, LIVE.addresses, LIVE.resolvers, ipv6=True),)),
    FirewallDemand(True, (OpenTunnel("vpn0", 1, LIVE.addresses[1:], (), ipv4=False, ipv6=True),)),
    FirewallDemand(True, (OpenTunnel("vpn0", 1, LIVE.addresses, MANY, ipv6=True, own=True),)),
    FirewallDemand(True, (OpenTunnel("vpn0", 1, LIVE.addresses, MANY, ipv6=True, askers=(0, 193)),)),
    FirewallDemand(
        True,
        tuple(
            OpenTunnel(f"vpn{n}", n, LIVE.addresses, LIVE.resolvers, vifs=frozenset({f"vif{n}.0", f"vif1{n}.0"}))
            for n in range(16)
        ),
    ),
]


@pytest.mark.parametrize("wanted", DEMANDS)
def test_every_text_loads_and_is_read_back(wanted: FirewallDemand) -> None:
    async def play() -> None:
        table = NftTable()
        assert not await table.intact()
        await table.apply(wanted)
        assert await table.intact()
        nft("add", "rule", "inet", "qubes-miragevpn", "forward", "accept")
        assert not await table.intact()
        await table.apply(wanted)
        assert await table.intact()

    in_netns(play)


WITHOUT_NUMGEN = """#!/bin/sh
[ "$1" = -f ] || exec nft "$@"
text=$(cat)
case $text in *numgen*) echo 'Error: Could not process rule: No such file or directory' >&2; exit 1 ;; esac
echo "$text" | exec nft -f -
"""


def test_a_kernel_in_which_resolvers_cannot_take_turns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The tunnel opens with two of each family, said once; what else the kernel refuses stays refused."""
    program = tmp_path / "nft"
    program.write_text(WITHOUT_NUMGEN)
    program.chmod(0o755)

    async def play() -> None:
        table = NftTable(str(program))
        for _ in range(2):
            await table.apply(DEMANDS[4])
            assert await table.intact()
        text = nft("list", "chain", "inet", "qubes-miragevpn", "dns")
        assert "numgen" not in text and "to 9.9.9.9" in text and "1.1.1.1" not in text
        program.write_text("#!/bin/sh\necho 'Error: Could not process rule: No such file' >&2; exit 1\n")
        with pytest.raises(FirewallError):
            await NftTable(str(program)).apply(DEMANDS[4])

    in_netns(play)
    assert caplog.text.count("cannot take turns") == 1


ROOT = ("uid", "0", "ipproto", "udp", "dport", "53")


def test_questions_by_the_tunnel_or_not_at_all() -> None:
    """Root's, to the tunnel's resolvers and their port, while it is open and somebody wants that; healed as all is."""

    async def play(stage: Stage) -> None:
        live = Live(LIVE.addresses, tuple(map(ip_address, ("10.8.0.1", "2001:db8::53"))))  # type: ignore[arg-type]

        def asked() -> list[str]:
            return [goes(resolver, *ROOT) for resolver in ("10.8.0.1", "2001:db8::53")]

        await stage.enforcer.start()
        tun = open_tun("vpn0")
        try:
            ip("link set vpn0 up")
            await stage.enforcer.let_ask((0,))
            assert asked() == ["nowhere", "nowhere"] and ways() == CLOSED_WAYS
            await stage.enforcer.enforce(0, demand(State.CONNECTED, live))
            assert asked() == ["vpn0", "vpn0"] and ways() == OPEN_WAYS
            assert goes("10.8.0.1", *ROOT, *MARKED) == "vpn0", "no mark leads a question to the uplink"
            for to, how in (
                ("10.8.0.1", ("uid", "1000", *ROOT[2:])),
                ("10.8.0.1", (*ROOT[:-1], "853")),
                ("10.8.0.3", ROOT),
                ("10.8.0.1", ()),
            ):
                assert goes(to, *how) == "nowhere", (to, how)
            ip("rule del pref 5149")
            assert asked()[0] == "nowhere"
            await stage.enforcer.heal()
            assert asked() == ["vpn0", "vpn0"]
            await stage.enforcer.let_ask(())
            assert asked() == ["nowhere", "nowhere"] and ways() == OPEN_WAYS
            assert "skuid" not in nft("list", "table", "inet", "qubes-miragevpn")
            await stage.enforcer.let_ask((0,))
            assert asked() == ["vpn0", "vpn0"]
            await stage.enforcer.enforce(0, Demand(True))
            assert asked() == ["nowhere", "nowhere"] and ways() == CLOSED_WAYS
            there = [rule for rule in await stage.netconf.rules() if rule.priority in OUR_PRIORITIES]
            assert sorted(there, key=repr) == sorted((*rules("eth0", {0: None}), *backstop()), key=repr)
            assert "skuid" not in nft("list", "table", "inet", "qubes-miragevpn")
        finally:
            tun.close()

    staged(play)


def test_what_reading_back_notices() -> None:
    """A rule more, a rule less, another verdict, another policy, a chain more, a chain less."""

    async def play() -> None:
        wanted = DEMANDS[2]
        table = NftTable()
        text = render(wanted)
        damages = {
            "chain forward has other rules": text.replace('counter drop comment "invalid"', "counter drop"),
            "chain output has other rules": text.replace('accept comment "transport"', 'drop comment "transport"'),
            "chain forward is of another kind": text.replace("filter - 10; policy drop", "filter - 10; policy accept"),
            "chain dns is of another kind": text.replace("priority dstnat - 5", "priority dstnat - 4"),
            "chain guard is missing": text.replace("chain guard", "chain other"),
        }
        for problem, damaged in damages.items():
            assert damaged != text
            subprocess.run(["nft", "-f", "-"], input=damaged.encode(), check=True)
            listing = await table._list()
            assert listing is not None and problem in differences(chains(wanted), listing)
        assert len(differences(chains(CLOSED), [])) == 5

    in_netns(play)


def test_healing() -> None:
    """Whatever is taken away comes back: the table, the rules, the closing routes, main without a default."""

    async def play(stage: Stage) -> None:
        await stage.enforcer.start()
        tun = open_tun("vpn0")
        ip("link set vpn0 up")
        await stage.enforcer.enforce(0, CONNECTED)
        nft("flush", "ruleset")
        ip("rule flush")
        ip("-6 rule flush")
        ip("route flush table 5156")
        ip("route del unreachable default table 5160 metric 4278198272")
        stage.default()
        signature = await stage.enforcer.heal()
        assert signature[1] == ((4, GATEWAY), (6, "fe80::1"))
        assert await stage.nft.intact() and ways() == OPEN_WAYS
        assert "unreachable default" in ip("route show table 5160")
        assert "default" not in ip("route show table main") + ip("-6 route show table main")
        ip("rule add pref 5148 lookup main")
        ip("rule add pref 5157 iif vif21.0 lookup main")
        await stage.enforcer.heal()
        assert "5157:" not in ip("rule show"), "a rule among ours that is not ours"
        ip("rule del pref 5148")
        tun.close()

    staged(play)


def test_without_qubes_tables_nothing_opens() -> None:
    """One that was there and is missing closes at once; when it is back, so is the tunnel."""

    async def play(stage: Stage) -> None:
        def opened() -> bool:
            return "out-vpn0" in nft("list", "ruleset")

        enforcer = Enforcer(stage.netconf, stage.uplink, {0: None}, needed=frozenset({("ip", "qubes")}))
        await enforcer.start()
        tun = open_tun("vpn0")
        ip("link set vpn0 up")
        await enforcer.enforce(0, CONNECTED)
        assert not opened() and enforcer.missing == {("ip", "qubes")}
        nft("add", "table", "ip", "qubes")
        nft("add", "table", "ip", "other")
        await enforcer.heal()
        assert opened() and not enforcer.missing
        nft("delete", "table", "ip", "other")
        nft("add", "table", "ip6", "qubes-firewall")
        await enforcer.heal()
        assert opened()
        nft("delete", "table", "ip6", "qubes-firewall")
        await enforcer.heal()
        assert not opened() and enforcer.missing == {("ip6", "qubes-firewall")}
        nft("add", "table", "ip6", "qubes-firewall")
        await enforcer.heal()
        assert opened()
        nft("flush", "ruleset")
        await enforcer.heal()
        assert not opened() and "downstream-refused" in nft("list", "ruleset")
        tun.close()

    staged(play)


def test_the_uplink_that_comes_and_goes() -> None:
    async def play(stage: Stage) -> None:
        first = await stage.enforcer.start()
        ip("link set eth0 down")
        assert await stage.enforcer.heal() == NO_UPLINK
        ip("link set eth0 up")
        again = await stage.enforcer.heal()
        assert again[1][0] == (4, GATEWAY), "a link that flaps loses its routes, and Qubes does not set them again"
        ip("link del eth0")
        assert await stage.enforcer.heal() == NO_UPLINK
        with pytest.raises(OSError, match="no IPv4 uplink"):
            await stage.uplink.pin(ip_address("198.51.100.1"), "vpn0")
        ip("link add eth0 type veth peer name far")
        ip("link set eth0 up")
        assert await stage.enforcer.heal() == NO_UPLINK, "the gateways of another interface are not used"
        stage.told[4] = ip_address("10.137.0.77")
        other = await stage.enforcer.heal()
        assert other[1] == ((4, "10.137.0.77"),) and other != first

    staged(play)


def test_rules_that_refuse_are_set_before_those_that_lead_somewhere() -> None:
    """By service and script alike, so that not even a moment's half set opens a way."""
    order = [rule.priority for rule in rules("eth0", {0: None}) if rule.family == socket.AF_INET]
    assert order == [5159, 5156, 5155, 5153, 5158, 5154, 5152, 5151, 5150]
    lines = (INSTALL / "qubes-miragevpn-lockdown").read_text().splitlines()
    assert [int(found[1]) for found in map(re.compile(r' rule "\$family" (5\d+) ').search, lines) if found] == order


def test_what_makes_another_uplink() -> None:
    """IPv6 that comes a moment after IPv4 is no reason to connect anew."""
    four, six = (4, GATEWAY), (6, "fe80::1")
    assert another(NO_UPLINK, (2, (four,))) and another((2, (four,)), (3, (four,)))
    assert another((2, (four,)), (2, ((4, "10.137.0.7"),))) and another((2, (four, six)), (2, (four,)))
    assert not another((2, (four,)), (2, (four, six))) and not another((2, (four,)), NO_UPLINK)


def test_pinning_the_server() -> None:
    """The route leads through the gateway, is for marked sockets only, and goes again."""

    async def play(stage: Stage) -> None:
        await stage.enforcer.start()
        for address in ("198.51.100.1", "2001:db8:1::1"):
            await stage.uplink.pin(ip_address(address), "vpn0")
        assert f"198.51.100.1 via {GATEWAY} dev eth0" in ip("route show table 5156")
        assert "onlink" in ip("route show table 5156")
        assert "2001:db8:1::1 via fe80::1" in ip("-6 route show table 5156")
        assert ways() == CLOSED_WAYS
        await stage.uplink.pin(ip_address("198.51.100.1"), "vpn1")
        await stage.uplink.unpin("vpn0")
        assert "198.51.100.1 via" in ip("route show table 5156"), "another tunnel has the same server"
        assert "2001:db8:1::1" not in ip("-6 route show table 5156")
        await stage.uplink.unpin("vpn1")
        assert "198.51.100.1" not in ip("route show table 5156")

    staged(play)


def test_tunnels_that_come_and_go_at_once() -> None:
    """Each ends while another's routes are deleted, or are set: what somebody needs is there, and nothing else."""

    async def play(stage: Stage) -> None:
        await stage.enforcer.start()
        servers = [ip_address(f"198.51.100.{number}") for number in range(1, 6)]
        for number, server in enumerate(servers):
            await stage.uplink.pin(server, f"vpn{number}")
        ends = [stage.uplink.unpin(f"vpn{number}") for number in reversed(range(5))]
        await asyncio.gather(*ends, stage.uplink.pin(servers[0], "vpn7"), stage.uplink.pin(servers[4], "vpn8"))
        assert stage.uplink.pinned == {servers[0], servers[4]}
        there = ip("route show table 5156")
        assert [server for server in servers if f"{server} via" in there] == [servers[0], servers[4]]

    staged(play)


def test_a_change_that_fails_leaves_everything_closed() -> None:
    """The TUN does not exist: the routes cannot be set; or nft refuses at the last step."""

    class Failing(NftTable):
        broken = False

        async def apply(self, demand: FirewallDemand) -> None:
            if self.broken and demand.tunnels:
                raise FirewallError("refused")
            await super().apply(demand)

    async def play(stage: Stage) -> None:
        await stage.enforcer.start()
        with pytest.raises(MirageError):
            await stage.enforcer.enforce(0, CONNECTED)
        assert ways() == CLOSED_WAYS and "vpn0" not in nft("list", "chain", "inet", "qubes-miragevpn", "forward")
        failing = Failing()
        enforcer = Enforcer(stage.netconf, stage.uplink, {0: None}, failing)
        await enforcer.start()
        tun = open_tun("vpn0")
        ip("link set vpn0 up")
        failing.broken = True
        with pytest.raises(FirewallError):
            await enforcer.enforce(0, CONNECTED)
        assert ways() == CLOSED_WAYS and await enforcer.routes_present(0)
        failing.broken = False
        await enforcer.heal()
        assert ways() == CLOSED_WAYS
        tun.close()

    staged(play)


def test_closing_comes_before_opening() -> None:
    """Each change of what is alive passes through a closed firewall, and opens last."""

    class Noted(NftTable):
        def __init__(self) -> None:
            super().__init__()
            self.steps: list[tuple[bool, bool]] = []

        async def apply(self, demand: FirewallDemand) -> None:
            await super().apply(demand)
            self.steps.append((bool(demand.tunnels), ways()["appvm"] == "vpn0"))

    async def play(stage: Stage) -> None:
        noted = Noted()
        enforcer = Enforcer(stage.netconf, stage.uplink, {0: None}, noted)
        await enforcer.start()
        tun = open_tun("vpn0")
        ip("link set vpn0 up")
        noted.steps.clear()
        await enforcer.enforce(0, demand(State.CONNECTING))
        await enforcer.enforce(0, CONNECTED)
        other = demand(State.CONNECTED, Live((ip_address("10.9.0.2"),)))
        await enforcer.enforce(0, other)
        await enforcer.enforce(0, other)  # nothing to do
        await enforcer.enforce(0, demand(State.SWITCHING))
        await enforcer.enforce(0, Demand())
        closed_open = [(False, False), (True, True), (False, True), (True, True), (False, True), (False, False)]
        assert noted.steps == closed_open, "(firewall open, way open) after each load"
        tun.close()

    staged(play)


def test_what_keeps_its_tunnel_goes_on_while_another_is_assigned() -> None:
    """From one tunnel for all to two and back: who is moved is closed first, who is not is never."""

    class Noted(NftTable):
        def __init__(self) -> None:
            super().__init__()
            self.served: list[dict[str, frozenset[str] | None]] = []

        async def apply(self, demand: FirewallDemand) -> None:
            await super().apply(demand)
            self.served.append({tunnel.tun: tunnel.vifs for tunnel in demand.tunnels})

    async def play(stage: Stage) -> None:
        noted = Noted()
        enforcer = Enforcer(stage.netconf, stage.uplink, {0: None}, noted)
        await enforcer.start()
        tuns = [open_tun(name) for name in ("vpn0", "vpn1")]
        for tun in tuns:
            ip(f"link set {tun.name} up")
        await enforcer.enforce(0, CONNECTED)
        stay, move = frozenset({"vif22.0"}), frozenset({"vif21.0"})
        await enforcer.assign({0: stay | move, 1: frozenset()})
        await enforcer.enforce(1, demand(State.CONNECTED, Live((ip_address("10.9.0.2"),))))
        assert ways()["appvm"] == "vpn0"
        noted.served.clear()
        await enforcer.assign({0: stay, 1: move})
        assert ways()["appvm"] == "vpn1"
        assert noted.served == [{"vpn0": stay, "vpn1": frozenset()}, {"vpn0": stay, "vpn1": move}]
        await enforcer.enforce(1, Demand())
        assert ways()["appvm"] == "nowhere", "its tunnel is down, and it goes nowhere else"
        noted.served.clear()
        await enforcer.assign({0: stay | move, 1: frozenset()})
        assert noted.served[-1] == {"vpn0": stay | move} and all(each["vpn0"] for each in noted.served)
        for tun in tuns:
            tun.close()

    staged(play)


def test_assigning_several_tunnels() -> None:
    """A new vif goes nowhere until it is assigned, and then only through its tunnel."""

    async def play(stage: Stage) -> None:
        enforcer = Enforcer(stage.netconf, stage.uplink, {0: frozenset(), 1: frozenset()})
        await enforcer.start()
        tuns = [open_tun(name) for name in ("vpn0", "vpn1")]
        for tun in tuns:
            ip(f"link set {tun.name} up")
        for index in (0, 1):
            await enforcer.enforce(index, demand(State.CONNECTED, Live((ip_address(f"10.{index + 8}.0.2"),))))
        assert ways()["appvm"] == "nowhere"
        await enforcer.assign({0: frozenset(), 1: frozenset({"vif21.0"})})
        assert ways()["appvm"] == "vpn1"
        await enforcer.assign({0: frozenset(), 1: frozenset()})
        assert ways()["appvm"] == "nowhere"
        for tun in tuns:
            tun.close()

    staged(play)


def flows() -> int:
    """How many flows the kernel remembers."""
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


def test_flows_are_forgotten_but_the_transports() -> None:
    """Every flow without our mark goes, in both families."""

    async def play(stage: Stage) -> None:
        await stage.enforcer.start()
        await stage.enforcer.enforce(0, demand(State.CONNECTING))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as plain6,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marked,
        ):
            marked.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x51564D)
            plain.sendto(b"x", ("127.0.0.1", 9))
            plain6.sendto(b"x", ("::1", 9))
            marked.sendto(b"x", ("198.51.100.1", 9))
        assert flows() == 3
        forget_flows()
        assert flows() == 1

    staged(play)


def test_flows_of_a_tunnel_live_on_in_the_same_tunnel_only() -> None:
    """A reconnection keeps them, another address or resolver ends them, and so does a barrier that was missing."""

    async def play(stage: Stage) -> None:
        def carry() -> None:
            """One packet of the AppVM's through the tunnel, as the kernel sees it come in on the vif."""
            # 10.137.0.21 to 198.51.100.1: IPv4 header with its checksum, UDP header without, four bytes
            packet = bytes.fromhex("4500002000010000401145fa0a890015c6336401") + bytes.fromhex("d9030007000c0000")
            frame = ethernet + packet + bytes(4)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
                sender.bind(("qube", 0))
                sender.send(frame)

        ip("link set vif21.0 address fe:ff:ff:ff:ff:ff")
        ethernet = bytes.fromhex("feffffffffff") + bytes(6) + b"\x08\x00"
        enforcer = stage.enforcer
        await enforcer.start()
        tun = open_tun("vpn0")
        ip("link set vpn0 up")
        await enforcer.enforce(0, CONNECTED)
        carry()
        assert flows() == 1
        for state, live in ((State.CONNECTING, None), (State.CONNECTED, LIVE)):
            await enforcer.enforce(0, demand(state, live))
            assert flows() == 1
        await enforcer.enforce(0, demand(State.CONNECTING))
        await enforcer.enforce(0, demand(State.CONNECTED, Live((ip_address("10.8.0.3"),))))
        assert flows() == 0
        carry()
        nft("flush", "ruleset")
        await enforcer.heal()
        assert flows() == 0
        tun.close()

    staged(play)


@pytest.mark.parametrize("kind", [NFTABLES, RULES])
def test_changes_wake(kind: Any) -> None:
    async def play() -> None:
        woken = asyncio.Event()
        signal = ChangeSignal(kind, woken.set)
        if kind is NFTABLES:
            nft("add", "table", "inet", "other")
        else:
            ip("-6 rule add pref 77 lookup main")
        await asyncio.wait_for(woken.wait(), 5)
        signal.close()
        signal.close()

    in_netns(play)


NFT_TROUBLES = [
    ("echo 'Error: \033[31mno' >&2; exit 1", r"nft: \\x1b\[31mno"),
    ("cat >/dev/null; echo '{'", "not understood"),
    ("cat >/dev/null; echo '{\"nftables\": []}'", "is not what was loaded"),
    ("cat >/dev/null; [ $1 = -f ] || { echo 'Error: No such file or directory' >&2; exit 1; }", "vanished"),
]


@pytest.mark.parametrize(("text", "problem"), NFT_TROUBLES)
def test_nft_that_fails(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "nft"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    with pytest.raises(FirewallError, match=problem):
        asyncio.run(NftTable(str(path)).apply(CLOSED))


def test_nft_that_is_not_there() -> None:
    with pytest.raises(FirewallError, match="cannot run"):
        asyncio.run(NftTable("/nonexistent/nft").apply(CLOSED))
