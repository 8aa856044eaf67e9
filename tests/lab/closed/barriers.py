# SPDX-License-Identifier: BSD-2-Clause
"""Taking barriers away, so that a test can show that each one left holds alone.

    firewall    our nftables table
    rules       the policy rules; the two that let marked sockets and replies find their tables (5150, 5151) are no
                barrier but an opening, and stay, so that there is a tunnel to look at
    no way out  a main table that leads downstream alone, and the two rules (32700, 32701) that look at no more of it

`leave` takes the others away where they are, and makes the service one that sets none of them and heals none
(programs/weakened.py): without that, it would mend them within a tenth of a second.
"""

from __future__ import annotations

import re
import shlex
import sys
from enum import Enum

from tests.lab.network import Lab
from tests.lab.places import NET_DOMID
from tests.lab.qube import REPOSITORY
from tests.lab.service import early

SCRIPT = "/usr/lib/qubes-miragevpn/qubes-miragevpn-lockdown"
DROP_IN = "/usr/lib/systemd/system/qubes-network-uplink@.service.d/30-qubes-miragevpn.conf"
OPENING_RULES = ("5150:", "5151:")
KERNELS = ("32766:", "32767:")  # main and default, as everywhere


class Left(Enum):
    """Which barriers there are."""

    ALL = "all"
    FIREWALL = "firewall"
    RULES = "rules"
    NO_WAY_OUT = "no way out"
    NONE = "none"

    def has(self, barrier: Left) -> bool:
        """True if `barrier` stands."""
        return self is Left.ALL or self is barrier


SINGLE = (Left.FIREWALL, Left.RULES, Left.NO_WAY_OUT)


def leave(lab: Lab, left: Left) -> None:
    """Take away every barrier but `left`; forgets nothing that the kernel knows of flows."""
    vpn = lab.vpn
    if left is Left.ALL:
        return
    target = shlex.join([sys.executable, "-m", "tests.lab.programs.weakened", left.value])
    vpn.write(
        "/usr/bin/miragevpn",
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(REPOSITORY))} exec {target} "$@"\n',
        0o755,
    )
    if not left.has(Left.FIREWALL):
        # Its marks are what the transport's answers pass the reverse path check of a new eth0 by.
        vpn.sysctl({"ipv4/conf/default/rp_filter": 0})
        vpn.run("nft", "delete", "table", "inet", "qubes-miragevpn", check=False)
    if not left.has(Left.RULES):
        _without_rules(lab, "51", "routing")
    if not left.has(Left.NO_WAY_OUT):
        _without_rules(lab, "327", "backstop")
        vpn.path("/run/qubes-service/disable-default-route").unlink(missing_ok=True)
        vpn.path(DROP_IN).unlink(missing_ok=True)
        if "eth0" in vpn.run("ip", "-br", "link").stdout:
            lab.set_up_uplink(NET_DOMID)


def _without_rules(lab: Lab, begin: str, function: str) -> None:
    """Delete the rules whose numbers begin so, and have the script set them no more."""
    vpn = lab.vpn
    for family in ("-4", "-6"):
        lines = vpn.run("ip", family, "rule", "show").stdout.splitlines()
        ours = [line for line in lines if line.startswith(begin) and not line.startswith((*OPENING_RULES, *KERNELS))]
        vpn.ip_family(family, [f"rule delete pref {line.split(':')[0]}" for line in ours])
    vpn.write(SCRIPT, re.sub(rf"(?m)^ *{function} -[46]\n", "", vpn.path(SCRIPT).read_text()), 0o755)


def put_back(lab: Lab) -> None:
    """All barriers again, as after an installation and the early step."""
    early(lab)
