# SPDX-License-Identifier: BSD-2-Clause
"""The nftables rules that Qubes 4.2/4.3 loads in a qube that provides network, in our own words.

Same tables, sets, chains, hooks, priorities, policies and verdicts (counters left out), so that what our own table does
beside them here it does beside them in a qube. Interface group 1 is the uplink, group 2 what is downstream.
"""

from __future__ import annotations

VIRTUAL_DNS = ("10.139.1.1", "10.139.1.2")
VIRTUAL_DNS6 = ("fd09:24ef:4179::a8b:1", "fd09:24ef:4179::a8b:2")


def _family(family: str, address: str, icmp: str) -> str:
    return f"""
table {family} qubes {{
  set downstream {{ type {address}_addr; }}
  set allowed {{ type ifname . {address}_addr; }}
  chain antispoof {{
    iifname . {"ip" if address == "ipv4" else "ip6"} saddr @allowed accept
    counter drop
  }}
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifgroup 2 goto antispoof
    {"ip" if address == "ipv4" else "ip6"} saddr @downstream counter drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifgroup 2 accept
    oif "lo" accept
    masquerade
  }}
  chain custom-input {{
  }}
  chain custom-forward {{
  }}
{icmp}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    jump custom-forward
    ct state invalid counter drop
    ct state established,related accept
    oifgroup 2 counter drop
  }}
}}
"""


_INPUT4 = """
  chain input {
    type filter hook input priority filter; policy drop;
    jump custom-input
    ct state invalid counter drop
    iifgroup 2 udp dport 68 counter drop
    ct state established,related accept
    iifgroup 2 meta l4proto icmp accept
    iif "lo" accept
    iifgroup 2 counter reject with icmp host-prohibited
    counter
  }
"""

_INPUT6 = """
  chain _icmpv6 {
    meta l4proto != ipv6-icmp return
    icmpv6 type { nd-router-advert, nd-redirect } counter drop
    accept
  }
  chain input {
    type filter hook input priority filter; policy drop;
    jump custom-input
    ct state invalid counter drop
    ct state established,related accept
    iifgroup 2 goto _icmpv6
    iif "lo" accept
    meta l4proto ipv6-icmp icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    counter
  }
"""

QUBES_TABLES = _family("ip", "ipv4", _INPUT4) + _family("ip6", "ipv6", _INPUT6)


def dnat_dns(resolver: str | None) -> str:
    """What ``qubes-setup-dnat-to-ns`` makes of a resolver: DNS to the virtual addresses goes to it, or nowhere."""
    verdict = f"dnat to {resolver}" if resolver else "drop"
    rules = "\n".join(
        f"    ip daddr {dns} {proto} dport 53 {verdict}" for dns in VIRTUAL_DNS for proto in ("udp", "tcp")
    )
    return f"""
add chain ip qubes dnat-dns
delete chain ip qubes dnat-dns
table ip qubes {{
  chain dnat-dns {{
    type nat hook prerouting priority dstnat; policy accept;
{rules}
  }}
}}
"""


def flowtable(devices: list[str]) -> str:
    """The table ``qubes-nat-accel``, made anew whenever a vif comes.

    Flows from group 2 to group 1, once accepted, skip the forward hook. A kernel without nf_flow_table refuses it;
    the lab goes on without, as Qubes' script does.
    """
    return f"""
add table inet qubes-nat-accel
delete table inet qubes-nat-accel
table inet qubes-nat-accel {{
  flowtable qubes-accel {{
    hook ingress priority filter
    devices = {{ {", ".join(devices)} }}
  }}
  chain qubes-accel {{
    type filter hook forward priority filter + 5; policy accept;
    meta l4proto {{ tcp, udp }} iifgroup 2 oifgroup 1 flow add @qubes-accel
    counter
  }}
}}
"""
