# SPDX-License-Identifier: BSD-2-Clause
"""What each state demands: the whole table."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.qube.firewall.routing import (
    WORST_METRIC,
    backstop,
    closing_routes,
    names_rules,
    rules,
    tunnel_routes,
)
from qubes_miragevpn.qube.firewall.table import CLOSED, FirewallDemand
from qubes_miragevpn.qube.settings import MAX_TUNNELS, tunnel_mark, tunnel_name, tunnel_table
from qubes_miragevpn.qube.states import Demand, Live, State, demand, firewall, routes
from qubes_miragevpn.runtime.netlink.netconf import RouteType, RuleAction

A4, A6, R4 = IPv4Address("10.8.0.2"), IPv6Address("2001:db8::2"), IPv4Address("10.8.0.1")
LIVE = Live((A4,), (R4,))
ALL = {0: None}

TABLE = {
    State.CLOSED: Demand(marked=False, live=None),
    State.CONNECTING: Demand(marked=True, live=None),
    State.CONNECTED: Demand(marked=True, live=LIVE),
    State.SWITCHING: Demand(marked=True, live=None),
    State.FAILED: Demand(marked=False, live=None),
}


@pytest.mark.parametrize("state", State)
def test_every_state(state: State) -> None:
    """What is alive counts in Connected only: no other state opens anything, whatever it is given."""
    assert demand(state, LIVE) == TABLE[state]


def test_connected_needs_something_to_be_connected() -> None:
    for live in (None, Live(())):
        with pytest.raises(MisuseError):
            demand(State.CONNECTED, live)


@pytest.mark.parametrize("state", State)
def test_firewall_and_routes_of_every_state(state: State) -> None:
    wanted = demand(state, LIVE)
    found = firewall({0: wanted}, ALL)
    opened = state is State.CONNECTED
    assert found.marked == (state in (State.CONNECTING, State.CONNECTED, State.SWITCHING))
    assert [tunnel.tun for tunnel in found.tunnels] == (["vpn0"] if opened else [])
    assert bool(routes(0, wanted)) == opened
    if state in (State.CLOSED, State.FAILED):
        assert found == CLOSED


@pytest.mark.parametrize(
    ("addresses", "ipv4", "ipv6"), [((A4,), True, False), ((A4, A6), True, True), ((A6,), False, True)]
)
def test_families(addresses: tuple[IPv4Address | IPv6Address, ...], ipv4: bool, ipv6: bool) -> None:
    wanted = demand(State.CONNECTED, Live(addresses))
    (tunnel,) = firewall({0: wanted}, ALL).tunnels
    assert (tunnel.ipv4, tunnel.ipv6) == (ipv4, ipv6)
    assert [route.network.version for route in routes(0, wanted)] == [4] * ipv4 + [6] * ipv6


def test_one_tunnel_opens_nothing_for_another() -> None:
    """Two tunnels: marked sockets are shared, downstream interfaces are not; one not assigned to gets nobody."""
    demands = {0: demand(State.CONNECTED, LIVE), 1: demand(State.FAILED)}
    assignment = {0: frozenset({"vif3.0"}), 1: frozenset({"vif4.0"})}
    found = firewall(demands, assignment)
    assert [(tunnel.tun, tunnel.vifs) for tunnel in found.tunnels] == [("vpn0", frozenset({"vif3.0"}))]
    assert firewall(demands, {}).tunnels[0].vifs == frozenset()
    assert firewall({}, {}) == FirewallDemand()


# --- rules and routes -------------------------------------------------------------------------------------


def test_the_rules_of_one_tunnel() -> None:
    """Each family alike: locally sent and forwarded packets end in `unreachable`, and main shows host routes alone."""
    found = rules("eth0", ALL)
    for family in {rule.family for rule in found}:
        mine = sorted((rule for rule in found if rule.family == family), key=lambda rule: rule.priority)
        assert [rule.priority for rule in mine] == [5150, 5151, 5152, 5153, 5154, 5155, 5156, 5158, 5159]
        by = {rule.priority: rule for rule in mine}
        assert by[5150].fwmark == 0x51564D and by[5150].table == 5156 and by[5150].iifname == "lo"
        assert by[5158].iifname is None and by[5158].fwmark is None and by[5158].table == tunnel_table(0)
        assert by[5159].iifname is None and by[5159].action is RuleAction.UNREACHABLE
        widest = 31 if family == socket.AF_INET else 127  # host routes only
        in_main = {(rule.suppress_prefixlength, rule.suppress_ifgroup) for rule in mine if rule.table == 254}
        assert in_main == {(widest, 1)}
        assert all(rule.iifname == "lo" for rule in mine if rule.fwmark is not None), "marks forward nothing"
    assert len({rule.family for rule in found}) == 2


def test_own_programs_may_use_the_tunnel() -> None:
    """One rule differs: what is left of their packets looks up tunnel 0's table, which ends in `unreachable`."""
    closed, own = set(rules("eth0", ALL)), set(rules("eth0", ALL, own=True))
    assert {rule.priority for rule in closed ^ own} == {5153}
    assert {(rule.iifname, rule.table, rule.fwmark) for rule in own - closed} == {("lo", tunnel_table(0), None)}
    assert firewall({0: demand(State.CONNECTED, LIVE)}, ALL, own=True).tunnels[0].own
    both = {0: demand(State.CONNECTED, LIVE), 1: demand(State.CONNECTED, LIVE)}
    assigned = {0: frozenset[str](), 1: frozenset[str]()}
    assert [tunnel.own for tunnel in firewall(both, assigned, own=True).tunnels] == [True, False]


def test_those_who_look_names_up() -> None:
    """Their questions to tunnel 0's resolvers look its table up, whoever else is open; nobody's else do."""
    found = names_rules(tuple(map(ip_address, ("10.8.0.1", "2001:db8::53"))), (0, 193))
    assert {(str(rule.to), rule.uid, rule.family) for rule in found} == {
        (to, (uid, uid), family)
        for to, family in (("10.8.0.1/32", socket.AF_INET), ("2001:db8::53/128", socket.AF_INET6))
        for uid in (0, 193)
    }
    (rest,) = {(rule.priority, rule.table, rule.iifname, rule.dport, rule.fwmark, rule.action) for rule in found}
    assert rest == (5149, tunnel_table(0), "lo", (53, 53), None, RuleAction.LOOKUP)
    both = {0: demand(State.CONNECTED, LIVE), 1: demand(State.CONNECTED, LIVE)}
    assigned = {0: frozenset[str](), 1: frozenset[str]()}
    assert [tunnel.askers for tunnel in firewall(both, assigned, askers=(0,)).tunnels] == [(0,), ()]


def test_the_third_barriers_own_rules() -> None:
    """Whoever looks main up sees downstream's host routes alone, and nothing follows."""
    found = backstop()
    assert [rule.action is RuleAction.UNREACHABLE for rule in found] == [True, True, False, False]
    assert {rule.priority for rule in found[:2]} == {32701} and {rule.priority for rule in found[2:]} == {32700}
    assert {(rule.suppress_prefixlength, rule.suppress_ifgroup) for rule in found[2:]} == {(31, 1), (127, 1)}
    assert all(rule.iifname is None and rule.fwmark is None for rule in found)


def test_the_refusal_is_added_first() -> None:
    """Added in this order, there is no moment in which a rule looks something up that nothing stands behind."""
    found = rules("eth0", ALL)
    refusing = [rule.action is RuleAction.UNREACHABLE for rule in found]
    assert refusing == sorted(refusing, reverse=True)
    for each in (found[: refusing.index(False)], found[refusing.index(False) :]):
        of_one = [rule.priority for rule in each if rule.family == socket.AF_INET]
        assert of_one == sorted(of_one, reverse=True)


def test_the_rules_of_several_tunnels() -> None:
    """No catch-all but `unreachable`: a new vif goes nowhere until it is assigned."""
    found = rules("eth0", {0: frozenset({"vif3.0"}), 1: frozenset()})
    assert {rule.priority for rule in found if rule.iifname is None} == {5159}
    assert {(rule.iifname, rule.table) for rule in found if rule.priority == 5157} == {("vif3.0", tunnel_table(0))}
    assert {rule.iifname for rule in found if rule.priority == 5154} == {"vpn0", "vpn1"}


def test_every_table_ends_unreachable() -> None:
    found = closing_routes({0: None, 3: None})
    assert {(route.table, route.network.version) for route in found} == {
        (table, version) for table in (5156, tunnel_table(0), tunnel_table(3)) for version in (4, 6)
    }
    assert all(r.type is RouteType.UNREACHABLE and r.metric == WORST_METRIC and not r.network.prefixlen for r in found)


def test_a_tunnel_routes_everything_into_itself() -> None:
    (route,) = tunnel_routes(2, ipv4=True, ipv6=False)
    assert (str(route.network), route.dev, route.table, route.via) == ("0.0.0.0/0", "vpn2", tunnel_table(2), None)


def test_numbers_do_not_meet() -> None:
    tables = [tunnel_table(index) for index in range(MAX_TUNNELS)]
    assert 5156 not in tables and len(set(tables)) == MAX_TUNNELS and max(tables) < 32000
    marks = [tunnel_mark(index) for index in range(MAX_TUNNELS)]
    assert 0x51564D not in marks and len(set(marks)) == MAX_TUNNELS
    for wrong in (-1, MAX_TUNNELS):
        with pytest.raises(MisuseError):
            tunnel_name(wrong)
