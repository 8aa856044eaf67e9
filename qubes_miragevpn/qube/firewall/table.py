# SPDX-License-Identifier: BSD-2-Clause
"""The text of our nftables table: a pure function of what the tunnels demand.

Barrier one of three. The table ``inet qubes-miragevpn`` lets a downstream qube speak with its tunnel and
with nothing else, lets only marked sockets of ours leave by the uplink, and sends questions to Qubes'
virtual resolvers to the tunnel's resolver. Its closed form is shipped as a static file that an early unit
loads before forwarding is switched on; this module makes that very text (a test compares them), and every
other form.

Chains and priorities (Qubes' own tables are at raw, filter, dstnat and srcnat):

    guard    prerouting  raw         packets to a tunnel's address from elsewhere (CVE-2019-14899)
    marking  prerouting  mangle      marks for the reverse path check; virtual resolvers refused
    dns      prerouting  dstnat - 5  before Qubes' own ``dnat-dns``, whichever it holds
    forward  forward     filter - 10 downstream <-> tunnel, policy drop
    output   output      filter      marked sockets, downstream, loopback; policy drop

Nothing but interface names that matched their pattern, addresses that are address objects and numbers of
ours is ever put into the text. NAT is left to Qubes' own masquerade rule.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.names import SOCKET_MARK

TABLE = "qubes-miragevpn"
VIRTUAL_RESOLVERS = (IPv4Address("10.139.1.1"), IPv4Address("10.139.1.2"))
VIRTUAL_RESOLVERS6 = (IPv6Address("fd09:24ef:4179::a8b:1"), IPv6Address("fd09:24ef:4179::a8b:2"))
"""What dom0 gives qubes as their resolvers; the IPv6 ones where it gives IPv6 addresses at all (from 4.3 on)."""

VIF_NAME = re.compile(r"\Avif(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,2})\Z")
TUN_NAME = re.compile(r"\Avpn(0|[1-9][0-9]?)\Z")

REFUSE = "reject with icmpx admin-prohibited"
CONNECTING = "tcp flags & (fin | syn | rst | ack) == syn"
RESET = "reject with tcp reset"
"""A program that connects fails at once by a reset; the kernel sends only so many ICMP errors to one address. What
belongs to a connection gets an ICMP error, which does not end it: it may live on when the tunnel is there again."""


@dataclass(frozen=True)
class OpenTunnel:
    """A tunnel that carries downstream traffic now.

    `mark` is what its flows bear, and its incoming packets for the reverse path check. `vifs` None means every
    downstream interface, present or to come. `resolvers` are the tunnel's; those of a family stand in for the virtual
    ones of that family. `own`: this qube's own programs may use it. `askers`: the users (numbers) whose questions to
    its resolvers may go into it.
    """

    tun: str
    mark: int
    addresses: tuple[IPv4Address | IPv6Address, ...]
    resolvers: tuple[IPv4Address | IPv6Address, ...] = ()
    ipv4: bool = True
    ipv6: bool = False
    vifs: frozenset[str] | None = None
    own: bool = False
    askers: tuple[int, ...] = ()


@dataclass(frozen=True)
class FirewallDemand:
    """Everything the table depends on. `marked`: our transport sockets (and DNS queries) may use the uplink."""

    marked: bool = False
    tunnels: tuple[OpenTunnel, ...] = ()


CLOSED = FirewallDemand()


@dataclass(frozen=True)
class Family:
    """What differs between the two when names are looked up; `dns` begins the rules' names."""

    version: int
    word: str
    dns: str
    virtual: tuple[IPv4Address | IPv6Address, ...]

    def resolvers(self, tunnel: OpenTunnel) -> tuple[IPv4Address | IPv6Address, ...]:
        """The tunnel's resolvers of this family."""
        return tuple(resolver for resolver in tunnel.resolvers if resolver.version == self.version)


FAMILIES = (Family(4, "ip", "dns", VIRTUAL_RESOLVERS), Family(6, "ip6", "dns6", VIRTUAL_RESOLVERS6))


@dataclass(frozen=True)
class Rule:
    """One rule: `name` is its comment (how it is found again when the table is read back)."""

    name: str
    match: str
    verdict: str


@dataclass(frozen=True)
class Chain:
    """One base chain; `number` is what `priority` (nft's spelling) comes to."""

    name: str
    type: str
    hook: str
    priority: str
    number: int
    policy: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Allowance:
    """Something besides marked sockets that may leave by the uplink while the tunnel is wanted."""

    name: str
    match: str
    why: str


EXCEPTIONS = (
    Allowance(
        "neighbour-discovery",
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255",
        "the kernel asks for the IPv6 uplink gateway's address itself, on no marked socket",
    ),
)
"""The table of exceptions. IPv4 needs none: Qubes sets the gateway as a permanent neighbour."""


def chains(demand: FirewallDemand, *, turns: bool = True) -> tuple[Chain, ...]:
    """Return the table that `demand` asks for; raises `MisuseError` for a name that may not be put into rules.

    `turns`: the kernel can have a tunnel's other resolvers take turns (module nft_numgen).
    """
    tunnels = demand.tunnels
    for tunnel in tunnels:
        _check(tunnel)
    if len(tunnels) > 1 and any(tunnel.vifs is None for tunnel in tunnels):
        raise MisuseError("with several tunnels each names its downstream interfaces")
    return (
        Chain("guard", "filter", "prerouting", "raw", -300, "accept", tuple(_guard(tunnels))),
        Chain("marking", "filter", "prerouting", "mangle", -150, "accept", tuple(_mark(tunnels))),
        Chain("dns", "nat", "prerouting", "dstnat - 5", -105, "accept", tuple(_dns(tunnels, turns))),
        Chain("forward", "filter", "forward", "filter - 10", -10, "drop", tuple(_forward(tunnels))),
        Chain("output", "filter", "output", "filter", 0, "drop", tuple(_output(demand.marked, tunnels))),
    )


def takes_turns(demand: FirewallDemand) -> bool:
    """True if the table is another one where the kernel lets resolvers take turns."""
    return any(len(family.resolvers(tunnel)) > 2 for family in FAMILIES for tunnel in demand.tunnels)


def render(demand: FirewallDemand, *, turns: bool = True) -> str:
    """Return the text for ``nft -f``: the table replaced in one transaction, so that there is no moment without it."""
    lines = [f"add table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for chain in chains(demand, turns=turns):
        lines.append(f"\tchain {chain.name} {{")
        lines.append(f"\t\ttype {chain.type} hook {chain.hook} priority {chain.priority}; policy {chain.policy};")
        for rule in chain.rules:
            lines.append("\t\t" + f'{rule.match} {rule.verdict} comment "{rule.name}"'.lstrip())
        lines.append("\t}")
    lines.append("}")
    return "\n".join(lines) + "\n"


def _check(tunnel: OpenTunnel) -> None:
    if not TUN_NAME.match(tunnel.tun):
        raise MisuseError("not a tunnel interface's name")
    if any(not VIF_NAME.match(name) for name in tunnel.vifs or ()):
        raise MisuseError("not a downstream interface's name")


def _downstream(tunnel: OpenTunnel, keyword: str) -> str | None:
    """The match for `tunnel`'s downstream interfaces, or None when it has none."""
    if tunnel.vifs is None:
        return f'{keyword} "vif*"'
    if not tunnel.vifs:
        return None
    return f"{keyword} {{ {', '.join(chr(34) + name + chr(34) for name in sorted(tunnel.vifs))} }}"


def _carried(tunnel: OpenTunnel) -> str:
    """The match for the families that `tunnel` carries; both is no match at all."""
    return "" if tunnel.ipv4 and tunnel.ipv6 else f"meta nfproto ipv{4 if tunnel.ipv4 else 6} "


def _guard(tunnels: tuple[OpenTunnel, ...]) -> Iterable[Rule]:
    """Nobody but the tunnel itself may probe for, or speak to, the address inside the tunnel."""
    holders: dict[IPv4Address | IPv6Address, list[str]] = {}
    for tunnel in tunnels:
        for address in tunnel.addresses:
            holders.setdefault(address, []).append(tunnel.tun)
    for address, names in holders.items():  # two providers may give out the same address
        word = "ip" if address.version == 4 else "ip6"
        others = " ".join(f'iifname != "{name}"' for name in (*names, "lo"))
        yield Rule(f"tunnel-address-{names[0]}", f"{others} {word} daddr {address}", "counter drop")


def _mark(tunnels: tuple[OpenTunnel, ...]) -> Iterable[Rule]:
    """Marks for rp_filter, which looks a packet's source up as if we answered it; and DNS with no resolver.

    Main holds no default route, so without a mark every packet from the uplink or the tunnel would have an
    impossible source wherever rp_filter is 1 or 2. Rules for these marks exist for ``iif lo`` alone: they
    never forward anything.
    """
    mark = f"0x{SOCKET_MARK:08x}"
    yield Rule(
        "uplink-reply",
        f'iifname != "vif*" iifname != "vpn*" ct direction reply ct mark {mark}',
        f"meta mark set {mark}",
    )
    for tunnel in tunnels:
        yield Rule(f"tunnel-reply-{tunnel.tun}", f'iifname "{tunnel.tun}"', f"meta mark set 0x{tunnel.mark:08x}")
    for family in FAMILIES:
        virtual = ", ".join(str(address) for address in family.virtual)
        for tunnel in tunnels:
            downstream = _downstream(tunnel, "iifname")
            if downstream is not None and family.resolvers(tunnel):
                match = f"{downstream} {family.word} daddr {{ {virtual} }} meta l4proto {{ tcp, udp }} th dport 53"
                yield Rule(f"{family.dns}-served-{tunnel.tun}", match, "accept")
        match = f'iifname "vif*" {family.word} daddr {{ {virtual} }}'
        yield Rule(f"{family.dns}-reset", f"{match} {CONNECTING}", f"counter {RESET}")
        yield Rule(f"{family.dns}-refused", match, f"counter {REFUSE}")
    # Here, since what is closed has no route and so never comes to the forward hook.
    for tunnel in tunnels:
        downstream = _downstream(tunnel, "iifname")
        if downstream is not None and (tunnel.ipv4 or tunnel.ipv6):
            yield Rule(f"open-{tunnel.tun}", f"{_carried(tunnel)}{downstream}", "accept")
    yield Rule("closed-reset", f'iifname "vif*" fib daddr type != local {CONNECTING}', f"counter {RESET}")


def _dns(tunnels: tuple[OpenTunnel, ...], turns: bool) -> Iterable[Rule]:
    """The first virtual resolver is the tunnel's first one, the second its others in turn, question by question.

    A qube that gets no answer from the one asks the other, and again: so each resolver of the tunnel gets its turn.
    Without `turns` the second is the tunnel's second one, always.
    """
    for family, tunnel in itertools.product(FAMILIES, tunnels):
        downstream, resolvers = _downstream(tunnel, "iifname"), family.resolvers(tunnel)
        if downstream is None or not resolvers:
            continue
        others = resolvers[1:] if turns else resolvers[1:2]
        for place, (virtual, real) in enumerate(zip(family.virtual, (resolvers[:1], others), strict=True), 1):
            match = f"{downstream} {family.word} daddr {virtual} meta l4proto {{ tcp, udp }} th dport 53"
            verdict = f"counter dnat {family.word} to {_in_turn(real or resolvers)}"
            yield Rule(f"{family.dns}-{tunnel.tun}-{place}", match, verdict)


def _in_turn(addresses: tuple[IPv4Address | IPv6Address, ...]) -> str:
    if len(addresses) == 1:
        return str(addresses[0])
    places = ", ".join(f"{place} : {address}" for place, address in enumerate(addresses))
    return f"numgen inc mod {len(addresses)} map {{ {places} }}"


def _forward(tunnels: tuple[OpenTunnel, ...]) -> Iterable[Rule]:
    """Downstream to its tunnel and answers back. A packet of no known flow would leave with the qube's own address."""
    if tunnels:
        yield Rule("invalid", "ct state invalid", "counter drop")
    for tunnel in tunnels:
        out, back = _downstream(tunnel, "iifname"), _downstream(tunnel, "oifname")
        if out is None or back is None:
            continue
        if not (tunnel.ipv4 or tunnel.ipv6):
            continue
        family = _carried(tunnel)
        match = f'{family}{out} oifname "{tunnel.tun}"'
        yield Rule(f"out-{tunnel.tun}", match, f"ct mark set 0x{tunnel.mark:08x} counter accept")
        match = f'{family}iifname "{tunnel.tun}" {back} ct state established,related'
        yield Rule(f"back-{tunnel.tun}", match, "counter accept")
    for name, match in (("downstream", 'iifname "vif*"'), ("group", "iifgroup 2")):
        yield Rule(f"{name}-reset", f"{match} {CONNECTING}", f"counter {RESET}")
        yield Rule(f"{name}-refused", match, f"counter {REFUSE}")
    yield Rule("dropped", "", "counter drop")


def _output(marked: bool, tunnels: tuple[OpenTunnel, ...]) -> Iterable[Rule]:
    """Own traffic: loopback and downstream; marked sockets by the uplink; all else refused.

    So is the tunnel, unless its owner lets this qube's own programs use it, or for questions of those who look up the
    names in dom0's rules; never for what is marked for the uplink.
    """
    yield Rule("loopback", 'oifname "lo"', "accept")
    yield Rule("downstream", 'oifname "vif*"', "accept")
    yield Rule("downstream-group", "oifgroup 2", "accept")
    for tunnel in tunnels:
        if tunnel.own:
            match = f'oifname "{tunnel.tun}" meta mark 0x00000000'
            yield Rule(f"own-{tunnel.tun}", match, f"ct mark set 0x{tunnel.mark:08x} counter accept")
        yield from _questions(tunnel)
    yield Rule("own-into-tunnel", 'oifname "vpn*"', f"counter {REFUSE}")
    if marked:
        mark = f"0x{SOCKET_MARK:08x}"
        yield Rule("transport", f"meta mark {mark} ct mark set {mark}", "counter accept")
        for exception in EXCEPTIONS:
            yield Rule(exception.name, exception.match, "counter accept")
    yield Rule("own-refused", "", f"counter {REFUSE}")


def _questions(tunnel: OpenTunnel) -> Iterable[Rule]:
    """DNS of a few users to the tunnel's own resolvers, by the tunnel and by nothing else."""
    for family, name in zip(FAMILIES, ("names", "names6"), strict=True):
        resolvers = ", ".join(str(resolver) for resolver in family.resolvers(tunnel))
        if tunnel.askers and resolvers:
            users = ", ".join(str(int(uid)) for uid in tunnel.askers)
            match = f'oifname "{tunnel.tun}" meta mark 0x00000000 meta skuid {{ {users} }}'
            match += f" {family.word} daddr {{ {resolvers} }} meta l4proto {{ tcp, udp }} th dport 53"
            yield Rule(f"{name}-{tunnel.tun}", match, f"ct mark set 0x{tunnel.mark:08x} counter accept")
