# SPDX-License-Identifier: BSD-2-Clause
"""The per-AppVM firewall that dom0 gives out: what the daemon ``qubes-firewall`` does in a network qube, played.

Tables ``ip qubes-firewall`` and ``ip6 qubes-firewall``: a forward chain with policy drop, a chain for every AppVM, the
set ``dns-addr`` of the resolvers in the qube's own resolv.conf for rules with ``specialtarget=dns``, and protection of
the connected addresses. They stand beside our table; `test_service` shows that both hold at once.
"""

from __future__ import annotations

from tests.lab.qube import Qube

ACCEPT = ("accept",)
DNS = ("ip daddr @dns-addr udp dport 53 accept", "ip daddr @dns-addr tcp dport 53 accept")
"""What ``action=accept specialtarget=dns`` becomes."""


def _family(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def start(qube: Qube) -> None:
    """Make the tables, with no AppVM in them yet."""
    qube.nft(
        "\n".join(
            f"""
table {family} qubes-firewall {{
  set dns-addr {{ type {kind}; }}
  set connected {{ type {kind}; }}
  chain qubes-forward {{
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname != "vif*" accept
    jump qubes-forward
  }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "vif*" {family} saddr @connected drop
  }}
  chain postrouting {{
    type filter hook postrouting priority -300; policy accept;
    oifname != "vif*" {family} daddr @connected drop
  }}
}}"""
            for family, kind in (("ip", "ipv4_addr"), ("ip6", "ipv6_addr"))
        )
    )


def connect(qube: Qube, address: str) -> None:
    """An AppVM with this address was plugged in; dom0 allows it everything."""
    family, chain = _family(address), _chain(address)
    qube.nft(f"""
add chain {family} qubes-firewall {chain}
add element {family} qubes-firewall connected {{ {address} }}""")
    set_rules(qube, address, ACCEPT)
    jump = f"{family} saddr {address} jump {chain}"
    if jump not in qube.run("nft", "list", "chain", family, "qubes-firewall", "qubes-forward").stdout:
        qube.nft(f"add rule {family} qubes-firewall qubes-forward {jump}")


def set_rules(qube: Qube, address: str, rules: tuple[str, ...]) -> None:
    """Replace the AppVM's rules; what none of them accepts is rejected."""
    family, chain = _family(address), _chain(address)
    last = f"reject with {'icmp' if family == 'ip' else 'icmpv6'} admin-prohibited"
    lines = [f"add rule {family} qubes-firewall {chain} {rule}" for rule in (*rules, last)]
    qube.nft("\n".join([f"flush chain {family} qubes-firewall {chain}", *lines]))


def reload(qube: Qube) -> None:
    """Read resolv.conf again, as ``systemctl reload qubes-firewall`` has it done."""
    words = [line.split() for line in qube.path("/etc/resolv.conf").read_text().splitlines()]
    resolvers = [line[1] for line in words if line[:1] == ["nameserver"] and ":" not in line[1]]
    added = f"add element ip qubes-firewall dns-addr {{ {', '.join(resolvers)} }}" if resolvers else ""
    qube.nft(f"flush set ip qubes-firewall dns-addr\n{added}")


def _chain(address: str) -> str:
    return "qbs-" + address.replace(".", "-").replace(":", "-")
