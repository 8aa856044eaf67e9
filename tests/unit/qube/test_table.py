# SPDX-License-Identifier: BSD-2-Clause
"""The firewall's text, state by state, without a kernel; and that the static file is the closed one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.qube.firewall.table import CLOSED, Chain, FirewallDemand, OpenTunnel, chains, render, takes_turns

LOCKDOWN = Path(__file__).parents[3] / "install/vm/nft/qubes-miragevpn-lockdown.nft"

TUN = OpenTunnel("vpn0", 0x515650, (ip_address("10.8.0.2"),), (ip_address("10.8.0.1"),))  # type: ignore[arg-type]
SIX = OpenTunnel("vpn0", 0x515650, (ip_address("10.8.0.2"), ip_address("2001:db8::2")), (), ipv6=True)
ONLY_SIX = OpenTunnel("vpn0", 0x515650, (ip_address("2001:db8::2"),), (), ipv4=False, ipv6=True)


def chain(demand: FirewallDemand, name: str) -> Chain:
    return next(each for each in chains(demand) if each.name == name)


def names(demand: FirewallDemand, name: str) -> list[str]:
    return [rule.name for rule in chain(demand, name).rules]


def test_the_static_file_is_the_closed_table() -> None:
    text = LOCKDOWN.read_text()
    code = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#") and line != "\n")
    assert code == render(CLOSED)


ACCEPTED = {
    "closed": (CLOSED, set(), {"loopback", "downstream", "downstream-group"}),
    "connecting": (
        FirewallDemand(marked=True),
        set(),
        {"loopback", "downstream", "downstream-group", "transport", "neighbour-discovery"},
    ),
    "connected": (
        FirewallDemand(True, (TUN,)),
        {"out-vpn0", "back-vpn0"},
        {"loopback", "downstream", "downstream-group", "transport", "neighbour-discovery"},
    ),
}


@pytest.mark.parametrize(("demand", "forwarded", "sent"), ACCEPTED.values(), ids=list(ACCEPTED))
def test_what_is_accepted_in_each_state(demand: FirewallDemand, forwarded: set[str], sent: set[str]) -> None:
    """Nothing but these rules accepts; both chains drop by policy, and end in a rule that counts or refuses."""
    for name, accepting in (("forward", forwarded), ("output", sent)):
        found = chain(demand, name)
        assert found.policy == "drop"
        assert {rule.name for rule in found.rules if "accept" in rule.verdict} == accepting
        assert found.rules[-1].match == "" and found.rules[-1].verdict.split()[1] in ("drop", "reject")


def test_the_atomic_triple_and_nothing_of_others() -> None:
    for demand, _, _ in ACCEPTED.values():
        lines = render(demand).splitlines()
        assert lines[0] == "add table inet qubes-miragevpn"
        assert lines[1] == "delete table inet qubes-miragevpn"
        assert lines[2] == "table inet qubes-miragevpn {"
        assert [line for line in lines[3:] if "table " in line] == []


def test_own_processes_never_use_the_tunnel() -> None:
    """The refusal comes before the mark is looked at: a marked packet cannot loop into the tunnel either."""
    order = names(FirewallDemand(True, (TUN,)), "output")
    assert order.index("own-into-tunnel") < order.index("transport")


@pytest.mark.parametrize(
    ("tunnel", "family"), [(TUN, "meta nfproto ipv4 "), (SIX, ""), (ONLY_SIX, "meta nfproto ipv6 ")]
)
def test_families(tunnel: OpenTunnel, family: str) -> None:
    """IPv6 is forwarded only if the tunnel carries it; what is not forwarded meets the refusal."""
    rules = {rule.name: rule.match for rule in chain(FirewallDemand(True, (tunnel,)), "forward").rules}
    assert rules["out-vpn0"] == f'{family}iifname "vif*" oifname "vpn0"'
    assert rules["back-vpn0"].startswith(f'{family}iifname "vpn0"') and "established" in rules["back-vpn0"]


def test_a_tunnel_of_no_family_forwards_nothing() -> None:
    nothing = OpenTunnel("vpn0", 1, (), (), ipv4=False, ipv6=False)
    assert not any("accept" in rule.verdict for rule in chain(FirewallDemand(True, (nothing,)), "forward").rules)


def test_addresses_of_the_tunnel_are_guarded() -> None:
    guard = [rule.match for rule in chain(FirewallDemand(True, (SIX,)), "guard").rules]
    assert guard == [
        'iifname != "vpn0" iifname != "lo" ip daddr 10.8.0.2',
        'iifname != "vpn0" iifname != "lo" ip6 daddr 2001:db8::2',
    ]


def test_an_address_of_two_tunnels_is_guarded_against_all_others() -> None:
    """Two providers may give out the same: neither shuts the other out."""
    a = OpenTunnel("vpn0", 1, TUN.addresses, vifs=frozenset())
    b = OpenTunnel("vpn1", 2, TUN.addresses, vifs=frozenset())
    (rule,) = chain(FirewallDemand(True, (a, b)), "guard").rules
    assert rule.match == 'iifname != "vpn0" iifname != "vpn1" iifname != "lo" ip daddr 10.8.0.2'


@pytest.mark.parametrize(
    ("resolvers", "first", "second"),
    [
        (("10.8.0.1",), "10.8.0.1", "10.8.0.1"),
        (("10.8.0.1", "9.9.9.9"), "10.8.0.1", "9.9.9.9"),
        (("10.8.0.1", "9.9.9.9", "1.1.1.1"), "10.8.0.1", "numgen inc mod 2 map { 0 : 9.9.9.9, 1 : 1.1.1.1 }"),
    ],
)
def test_virtual_resolvers(resolvers: tuple[str, ...], first: str, second: str) -> None:
    tunnel = OpenTunnel("vpn0", 1, TUN.addresses, tuple(map(ip_address, resolvers)))  # type: ignore[arg-type]
    rules = chain(FirewallDemand(True, (tunnel,)), "dns").rules
    assert [rule.verdict for rule in rules] == [f"counter dnat ip to {each}" for each in (first, second)]
    assert names(FirewallDemand(True, (tunnel,)), "marking")[-7:] == [
        "dns-served-vpn0", "dns-reset", "dns-refused", "dns6-reset", "dns6-refused", "open-vpn0", "closed-reset",
    ]  # fmt: skip


def test_each_family_has_its_own_resolvers() -> None:
    """Those of a family stand in for the virtual ones of that family; without any, these are refused."""
    six = ip_address("2001:db8::53")
    tunnel = OpenTunnel("vpn0", 1, SIX.addresses, (six, ip_address("10.8.0.1")), ipv6=True)
    rules = {rule.name: (rule.match, rule.verdict) for rule in chain(FirewallDemand(True, (tunnel,)), "dns").rules}
    assert set(rules) == {f"{dns}-vpn0-{place}" for dns in ("dns", "dns6") for place in (1, 2)}
    assert " ip6 daddr fd09:24ef:4179::a8b:2 " in rules["dns6-vpn0-2"][0]
    assert rules["dns6-vpn0-2"][1] == f"counter dnat ip6 to {six}"
    only = OpenTunnel("vpn0", 1, SIX.addresses, (six,), ipv6=True)
    assert [rule.name for rule in chain(FirewallDemand(True, (only,)), "dns").rules] == ["dns6-vpn0-1", "dns6-vpn0-2"]
    assert "dns-served-vpn0" not in names(FirewallDemand(True, (only,)), "marking")


def test_only_new_connections_are_reset() -> None:
    """A reset would end those that live on when the tunnel is there again; they get ICMP errors."""
    for name in ("marking", "forward"):
        resets = [rule for rule in chain(CLOSED, name).rules if "tcp reset" in rule.verdict]
        assert len(resets) == (2 if name == "forward" else 3)
        assert all(rule.match.endswith("tcp flags & (fin | syn | rst | ack) == syn") for rule in resets)


def test_own_programs_where_they_may() -> None:
    """Into tunnel 0 alone, while it is open, without a mark; their flows bear the tunnel's."""
    tunnel = OpenTunnel("vpn0", 0x515650, TUN.addresses, own=True)
    rules = chain(FirewallDemand(True, (tunnel,)), "output").rules
    order = [rule.name for rule in rules]
    own = rules[order.index("own-vpn0")]
    assert order.index("own-vpn0") < order.index("own-into-tunnel")
    assert own.match == 'oifname "vpn0" meta mark 0x00000000' and own.verdict.startswith("ct mark set 0x00515650 ")
    assert "own-vpn0" not in names(FirewallDemand(True, (TUN,)), "output")


def test_questions_of_those_who_look_names_up() -> None:
    """To the tunnel's own resolvers, on their port, by the tunnel, without a mark; of no family it has none of."""
    tunnel = replace(SIX, resolvers=(ip_address("10.8.0.1"), ip_address("2001:db8::53")), askers=(0, 193))
    rules = {rule.name: rule for rule in chain(FirewallDemand(True, (tunnel,)), "output").rules}
    order = list(rules)
    for name, target in (("names-vpn0", "ip daddr { 10.8.0.1 }"), ("names6-vpn0", "ip6 daddr { 2001:db8::53 }")):
        who = 'oifname "vpn0" meta mark 0x00000000 meta skuid { 0, 193 }'
        assert rules[name].match == f"{who} {target} meta l4proto {{ tcp, udp }} th dport 53"
        assert rules[name].verdict == "ct mark set 0x00515650 counter accept"
        assert order.index(name) < order.index("own-into-tunnel")
    assert "names6-vpn0" not in names(FirewallDemand(True, (replace(TUN, askers=(0,)),)), "output")
    assert not [name for name in names(FirewallDemand(True, (TUN,)), "output") if name.startswith("names")]


def test_resolvers_that_cannot_take_turns() -> None:
    """Two of each family are asked, and the text has no word of what the kernel lacks."""
    resolvers = tuple(ip_address(text) for text in ("10.8.0.1", "10.8.0.3", "10.8.0.4", "2001:db8::53"))
    demand = FirewallDemand(True, (replace(SIX, resolvers=resolvers),))
    assert takes_turns(demand) and "numgen" in render(demand) and "numgen" not in render(demand, turns=False)
    assert not takes_turns(FirewallDemand(True, (TUN,)))
    verdicts = [rule.verdict for rule in chains(demand, turns=False)[2].rules]
    targets = ("ip to 10.8.0.1", "ip to 10.8.0.3", "ip6 to 2001:db8::53", "ip6 to 2001:db8::53")
    assert verdicts == [f"counter dnat {target}" for target in targets]


@pytest.mark.parametrize("demand", [CLOSED, FirewallDemand(True), FirewallDemand(True, (SIX,))])
def test_without_a_resolver_the_virtual_ones_are_refused(demand: FirewallDemand) -> None:
    """Before any translation: whatever Qubes' own chain says, it is never asked."""
    assert chain(demand, "dns").rules == ()
    assert "dns-served-vpn0" not in names(demand, "marking")
    refusals = {rule.name: rule.verdict for rule in chain(demand, "marking").rules}
    assert "reject" in refusals["dns-refused"] and "reject" in refusals["dns6-refused"]
    assert chain(demand, "marking").number < chain(demand, "dns").number


def test_several_tunnels_share_nothing() -> None:
    a = OpenTunnel("vpn0", 1, TUN.addresses, TUN.resolvers, vifs=frozenset({"vif3.0"}))
    b = OpenTunnel("vpn1", 2, (ip_address("10.9.0.2"),), (), vifs=frozenset({"vif5.0", "vif4.0"}))
    c = OpenTunnel("vpn2", 3, (ip_address("10.10.0.2"),), (), vifs=frozenset())
    demand = FirewallDemand(True, (a, b, c))
    rules = {rule.name: rule.match for rule in chain(demand, "forward").rules}
    assert rules["out-vpn0"] == 'meta nfproto ipv4 iifname { "vif3.0" } oifname "vpn0"'
    assert rules["out-vpn1"] == 'meta nfproto ipv4 iifname { "vif4.0", "vif5.0" } oifname "vpn1"'
    assert "out-vpn2" not in rules
    with pytest.raises(MisuseError):
        chains(FirewallDemand(True, (a, TUN)))


@pytest.mark.parametrize("name", ["vpn", "vpn100", "eth0", 'vpn0"', "vpn0\n", "vpn0 accept", ""])
def test_no_other_name_gets_into_the_text(name: str) -> None:
    with pytest.raises(MisuseError):
        render(FirewallDemand(True, (OpenTunnel(name, 1, ()),)))


@pytest.mark.parametrize("name", ["vif", "vif1", "vif1.x", 'vif1.0"', "vif01.0", "vif1.0\n", "eth0", "vif123456.0"])
def test_no_other_downstream_name_gets_into_the_text(name: str) -> None:
    with pytest.raises(MisuseError):
        render(FirewallDemand(True, (OpenTunnel("vpn0", 1, (), vifs=frozenset({name})),)))
