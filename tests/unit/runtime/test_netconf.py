# SPDX-License-Identifier: BSD-2-Clause
"""Network changes in a real namespace, checked with ip(8), and taken back.

    (namespace)   near ==veth== far
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from ipaddress import ip_address, ip_interface, ip_network
from types import SimpleNamespace
from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

from qubes_miragevpn.base.errors import MisuseError, SystemRefused
from qubes_miragevpn.runtime.netlink.netconf import (
    AddressEvent,
    LinkEvent,
    NetAddress,
    Netconf,
    NetconfError,
    NetRoute,
    NetRule,
    NoSuchLink,
    RouteEvent,
    RouteType,
    RuleAction,
    Watcher,
)
from qubes_miragevpn.runtime.netlink.rtnl import Kernel
from tests.unit.runtime.netns import in_netns, ip, settled

pytestmark = pytest.mark.needs_root

TABLE = 5156
V4 = int(socket.AF_INET)
V6 = int(socket.AF_INET6)


def near(*more: str) -> None:
    # no link-local addresses: they come when the kernel is done looking for duplicates
    quiet = [f"link set {dev} addrgenmode none" for dev in ("near", "far")]
    for command in ("link add near type veth peer name far", *quiet, "link set far up", *more):
        ip(command)


def picture() -> str:
    """All there is to see of the network (neither counters nor times)."""
    shown = ["-o link show", "-o addr show", "route show table all", "-6 route show table all", "rule", "-6 rule"]
    lines = [line for command in shown for line in ip(command).splitlines()]
    # the kernel adds those of IPv6 multicast when it sees fit, and lists IPv6's local routes in changing order
    return "\n".join(sorted(line for line in lines if not line.startswith("multicast")))


def play(function: Callable[[Netconf], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test with a Netconf of its own in a namespace of its own, where undo() must restore what was at the start."""

    def test() -> None:
        async def run() -> None:
            near("addr add 10.0.0.1/24 dev near", "addr add fd00::1/64 dev near nodad", "link set near up")
            settled("near", "far")
            before = picture()
            while "tentative" in before or "local fd00::1 dev near" not in before or "fd00::/64 dev near" not in before:
                before = picture()
            net = Netconf()
            try:
                await function(net)
                assert await net.undo() == ()
                for _ in range(100):  # the kernel makes the local route of an address a moment after it
                    if picture() == before:
                        break
                    await asyncio.sleep(0.02)
                assert picture() == before
            finally:
                await net.close()

        in_netns(run)

    test.__doc__ = function.__doc__
    test.__name__ = function.__name__
    return test


@play
async def test_link_is_changed(net: Netconf) -> None:
    await net.set_link("near", mtu=1400, txqueuelen=77)
    link = await net.link("near")
    assert link is not None
    assert (link.mtu, link.txqueuelen, link.up, link.carrier) == (1400, 77, True, True)
    assert "mtu 1400" in ip("link show near") and "qlen 77" in ip("link show near")
    await net.set_link("near", mtu=1300)
    assert await net.link_exists("near") and not await net.link_exists("absent")
    assert [each.name for each in await net.links() if each.index == await net.link_index("near")] == ["near"]


@play
async def test_addresses_come_and_go(net: Netconf) -> None:
    plain = NetAddress("near", ip_interface("10.8.0.2/24"))
    pair = NetAddress("near", ip_interface("10.9.0.2/32"), ip_address("10.9.0.1"))
    six = NetAddress("near", ip_interface("fd08::2/64"))
    for address in (plain, pair, six, six, plain):
        await net.replace_address(address)
    assert {plain, pair, six} <= set(await net.addresses("near"))
    assert "10.9.0.2 peer 10.9.0.1/32" in ip("addr show near")
    wider = NetAddress("near", ip_interface("10.8.0.2/16"))
    await net.replace_address(wider)
    there = await net.addresses("near")
    assert wider in there and plain not in there
    await net.remove_address(wider)
    await net.remove_address(wider)
    assert wider not in await net.addresses()


@play
async def test_an_address_that_was_there_is_put_back(net: Netconf) -> None:
    own = NetAddress("far", ip_interface("10.5.0.1/24"))
    await net.replace_address(own)
    await net.forget()
    await net.remove_address(own)
    assert own not in await net.addresses("far")
    await net.undo()
    assert own in await net.addresses("far")
    ip("addr del 10.5.0.1/24 dev far")


@play
async def test_every_kind_of_route_reads_back_as_it_was_set(net: Netconf) -> None:
    routes = {
        NetRoute(ip_network("0.0.0.0/0"), via=ip_address("10.0.0.9"), dev="near", table=TABLE),
        NetRoute(ip_network("0.0.0.0/0"), table=TABLE, metric=4000, type=RouteType.UNREACHABLE),
        NetRoute(ip_network("10.66.0.0/16"), dev="near", table=TABLE),
        NetRoute(ip_network("10.67.0.0/16"), table=TABLE, type=RouteType.THROW),
        NetRoute(ip_network("10.68.0.0/16"), dev="near", via=ip_address("192.0.2.1"), onlink=True, table=TABLE),
        NetRoute(ip_network("::/0"), dev="near", via=ip_address("fd00::9"), table=TABLE),
        NetRoute(ip_network("::/0"), table=TABLE, metric=4000, type=RouteType.UNREACHABLE),
        NetRoute(ip_network("fd66::/32"), dev="near", table=TABLE, metric=7),
        NetRoute(ip_network("fd67::/32"), table=TABLE, type=RouteType.THROW),
    }
    for route in routes:
        await net.replace_route(route)
        await net.replace_route(route)
    assert set(await net.routes(TABLE)) == routes
    assert "unreachable default metric 4000" in ip(f"route show table {TABLE}").replace("proto static ", "")
    await net.flush_table(TABLE, V6)
    assert {route.family for route in await net.routes(TABLE)} == {V4}
    await net.flush_table(TABLE)
    assert await net.routes(TABLE) == []


@play
async def test_a_route_takes_the_place_of_one_with_its_key(net: Netconf) -> None:
    network = ip_network("10.66.0.0/16")
    first = NetRoute(network, dev="near", via=ip_address("10.0.0.7"))
    second = NetRoute(network, dev="near", via=ip_address("10.0.0.8"))
    await net.replace_route(first)
    await net.replace_route(second)
    assert [route for route in await net.routes() if route.network == network] == [second]
    await net.delete_route(first)  # the same table, network and metric
    await net.delete_route(first)
    assert network not in [route.network for route in await net.routes()]


def test_a_default_route_that_gave_way_comes_back_with_source_and_maker() -> None:
    async def run() -> None:
        near("addr add 10.0.0.1/24 dev near", "addr add 10.0.0.2/24 dev near", "link set near up")
        ip("route add default via 10.0.0.9 dev near proto dhcp src 10.0.0.2")
        before = ip("route")
        net = Netconf()
        [old] = await net.default_routes(V4)
        assert (old.via, old.dev) == (ip_address("10.0.0.9"), "near")
        await net.replace_route(NetRoute(old.network, dev="far"))
        assert "default dev far" in ip("route")
        await net.delete_route(old)
        assert await net.default_routes(V4) == []
        await net.undo()
        assert ip("route") == before
        await net.close()

    in_netns(run)


@play
async def test_one_route_is_put_back_without_the_others(net: Netconf) -> None:
    network, other = ip_network("10.66.0.0/16"), NetRoute(ip_network("10.67.0.0/16"), dev="near")
    old = NetRoute(network, dev="near", via=ip_address("10.0.0.7"))
    await net.replace_route(old)
    await net.forget()
    for route in (other, NetRoute(network, dev="far"), NetRoute(network, dev="near")):
        await net.replace_route(route)
    await net.restore_route(old)
    await net.restore_route(old)
    assert {old, other} <= set(await net.routes())
    await net.delete_route(old)
    await net.forget()
    await net.delete_route(other)
    await net.forget()


@play
async def test_where_a_packet_would_go(net: Netconf) -> None:
    way = await net.route_to(ip_address("10.0.0.77"))
    assert way is not None and (way.dev, way.via, str(way.network)) == ("near", None, "10.0.0.77/32")
    await net.replace_route(NetRoute(ip_network("192.0.2.0/24"), via=ip_address("10.0.0.9")))
    way = await net.route_to(ip_address("192.0.2.1"))
    assert way is not None and (way.dev, way.via) == ("near", ip_address("10.0.0.9"))
    assert await net.route_to(ip_address("198.51.100.1")) is None
    assert await net.route_to(ip_address("2001:db8::1")) is None


@play
async def test_rules(net: Netconf) -> None:
    rules = {
        NetRule(V4, 100, TABLE, fwmark=0x51564D),
        NetRule(V6, 100, TABLE, fwmark=0x51564D),
        NetRule(V4, 101, TABLE, fwmark=0x10, fwmask=0xF0),
        NetRule(V4, 102, 7000, iifname="vif1.0"),
        NetRule(V6, 103, iifname="vif+", action=RuleAction.UNREACHABLE),
        NetRule(V4, 104, TABLE, iifname="lo", to=ip_network("10.8.0.1"), uid=(0, 0), dport=(53, 53)),
        NetRule(V4, 104, TABLE, iifname="lo", to=ip_network("10.8.0.1"), uid=(995, 995), dport=(53, 53)),
        NetRule(V6, 104, TABLE, to=ip_network("2001:db8::53"), uid=(1, 7), dport=(53, 60)),
        NetRule(V6, 104, TABLE, to=ip_network("2001:db8::/32")),
    }
    start = set(await net.rules())
    for rule in rules:
        await net.add_rule(rule)
        await net.add_rule(rule)
    assert set(await net.rules()) == start | rules
    assert "from all fwmark 0x10/0xf0 lookup 5156" in ip("rule")
    gone = NetRule(V4, 101, TABLE, fwmark=0x10, fwmask=0xF0)
    await net.delete_rule(gone)
    await net.delete_rule(gone)
    assert set(await net.rules(V4)) == {rule for rule in start | rules if rule.family == V4} - {gone}


@play
async def test_what_was_taken_back_by_hand_leaves_no_trace_in_the_journal(net: Netconf) -> None:
    for number in range(20):
        host = NetRoute(ip_network(f"192.0.2.{number}/32"), dev="near")
        await net.replace_route(host)
        await net.delete_route(host)
        await net.set_link("near", mtu=1300)
        await net.set_link("near", mtu=1500)
    assert not net._journal


def test_undo_survives_the_loss_of_the_interface() -> None:
    async def run() -> None:
        near("link set near up")
        net = Netconf()
        await net.set_link("near", mtu=1300)
        await net.replace_address(NetAddress("near", ip_interface("10.8.0.2/24")))
        await net.replace_route(NetRoute(ip_network("10.9.0.0/16"), dev="near"))
        await net.replace_route(NetRoute(ip_network("0.0.0.0/0"), table=TABLE, type=RouteType.UNREACHABLE))
        ip("link del near")
        assert await net.undo() == ()
        assert await net.routes(TABLE) == []
        await net.close()
        await net.close()

    in_netns(run)


@play
async def test_refusals_have_types(net: Netconf) -> None:
    with pytest.raises(NoSuchLink):
        await net.set_link("absent", up=True)
    with pytest.raises(NoSuchLink):
        await net.replace_address(NetAddress("absent", ip_interface("10.8.0.2/24")))
    with pytest.raises(NoSuchLink):
        await net.replace_route(NetRoute(ip_network("10.9.0.0/16"), dev="absent"))
    with pytest.raises(NetconfError, match="unreachable"):
        await net.replace_route(NetRoute(ip_network("10.9.0.0/16"), via=ip_address("172.31.0.1")))
    with pytest.raises(MisuseError):
        await net.flush_table(254)
    await net.delete_route(NetRoute(ip_network("10.9.0.0/16"), dev="absent"))


def test_without_privilege_the_error_says_what_to_do() -> None:
    async def run() -> None:
        import ctypes

        near()
        libc = ctypes.CDLL(None, use_errno=True)
        no_capabilities = (ctypes.c_uint32 * 6)()
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        assert libc.capset(header, no_capabilities) == 0  # of this thread, which the worker inherits
        net = Netconf()
        with pytest.raises(SystemRefused, match="root"):
            await net.set_link("near", up=True)
        with pytest.raises(SystemRefused, match="root"):
            await net.add_rule(NetRule(V4, 100, TABLE))
        await net.close()

    in_netns(run)


def test_watcher_tells_of_links_addresses_and_routes() -> None:
    async def run() -> None:
        watcher = Watcher(links=True, addresses=True, routes=True)
        near("link set near up", "addr add 10.0.0.1/24 dev near")
        ip(f"route add 10.9.0.0/16 dev near table {TABLE}")
        index = (await (net := Netconf()).link_index("near"))
        ip("link del near")
        wanted = {
            "new": lambda e: isinstance(e, LinkEvent) and e.present and e.link.name == "near" and e.link.up,
            "address": lambda e: isinstance(e, AddressEvent) and e.present and e.index == index,
            "route": lambda e: isinstance(e, RouteEvent) and e.present and (e.table, e.family) == (TABLE, V4),
            "gone": lambda e: isinstance(e, LinkEvent) and not e.present and e.link.name == "near",
        }
        async for event in watcher:
            wanted = {name: test for name, test in wanted.items() if not test(event)}
            if not wanted:
                watcher.close()
        await net.close()

    in_netns(run)


def test_watcher_says_when_events_were_lost() -> None:
    async def run() -> None:
        watcher = Watcher()
        near()
        watcher._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(200):
            ip("link set near mtu 1400")
            ip("link set near mtu 1500")
            if len(watcher._events) and type(watcher._events[0]).__name__ == "EventsLost":
                break
            await asyncio.sleep(0)
        async for event in watcher:
            if type(event).__name__ == "EventsLost":
                break
        watcher.close()

    in_netns(run)


def test_a_list_is_made_anew_when_something_changed_meanwhile() -> None:
    def work() -> None:
        kernel = Kernel()
        original, calls = kernel._ipr.link, []

        class Interrupted:
            """A dump with the kernel's mark on its last message (pyroute2 0.9), or one that raises (0.7)."""

            def __call__(self, command: str, **request: Any) -> Any:
                if command != "dump":
                    return original(command, **request)
                calls.append(command)
                if len(calls) == 1:
                    raise NetlinkDumpInterrupted
                messages = list(original(command, **request))
                if len(calls) == 2:
                    messages[-1]["header"]["flags"] |= 0x10
                return messages

        kernel._ipr = SimpleNamespace(link=Interrupted(), close=kernel._ipr.close)
        assert {link.name for link in kernel.links()} == {"lo", "near", "far"}
        assert len(calls) == 3
        kernel.close()

    async def run() -> None:
        near()
        await asyncio.to_thread(work)  # a thread without an event loop, in the same namespace

    in_netns(run)
