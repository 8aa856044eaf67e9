# SPDX-License-Identifier: BSD-2-Clause
"""The command ``miragevpn``, whose service sets but one barrier and heals no other: ``weakened.py BARRIER ARG...``"""

from __future__ import annotations

import sys
from typing import Any

from qubes_miragevpn.cli.main import main
from qubes_miragevpn.qube.firewall import enforcer
from qubes_miragevpn.qube.firewall.nft import NftTable
from qubes_miragevpn.qube.firewall.table import FirewallDemand
from qubes_miragevpn.runtime.netlink.netconf import MAIN_TABLE, Netconf, NetRoute, NetRule

OPENING = (5150, 5151)


class NoTable(NftTable):
    """A firewall that is never set and never missed."""

    async def apply(self, demand: FirewallDemand) -> None:
        """Do nothing."""

    async def intact(self) -> bool:
        """Nothing to see."""
        return True


def weaken(left: str) -> None:
    """Take the code of the other barriers away."""
    if left != "firewall":
        enforcer.NftTable = NoTable  # type: ignore[misc]
    if left != "rules":
        all_rules = enforcer.rules

        def rules(*arguments: Any, **options: Any) -> tuple[NetRule, ...]:
            return tuple(rule for rule in all_rules(*arguments, **options) if rule.priority in OPENING)

        enforcer.rules = rules
    if left != "no way out":
        enforcer.backstop = lambda: ()
    if left != "no way out":
        delete = Netconf.delete_route

        async def delete_route(self: Netconf, route: NetRoute) -> None:
            if route.table != MAIN_TABLE:
                await delete(self, route)

        Netconf.delete_route = delete_route  # type: ignore[method-assign]


if __name__ == "__main__":
    barrier = sys.argv.pop(1)
    if sys.argv[1:2] == ["service"]:
        weaken(barrier)
    sys.exit(main(sys.argv[1:]))
