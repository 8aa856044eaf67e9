# SPDX-License-Identifier: BSD-2-Clause
"""Carrying out what the tunnels demand, closing before opening, and healing what others broke.

One lock: changes never interleave. A change that takes an opening away closes the firewall first, then
changes routes, forgets the kernel's flows, and opens last; one that fails half-way leaves everything closed.
A flow that a tunnel carried is kept while that tunnel is closed, where it goes nowhere, and lives on if the very same
tunnel opens again: a long download survives a reconnection. In any other case it is forgotten.

`heal` looks at the whole (table, rules, closing routes, uplink) and mends what is not as demanded;
events of the kernel ask for it at once, a slow clock in any case. Nothing here is ever undone: when the service ends,
the barriers stay.

Qubes' own tables hold what is not ours: NAT, the check of downstream's sources, dom0's rules for each qube. Where one
that was there is missing (``nft flush ruleset``, a restart of qubes-firewall), nothing is open until it is back.
"""

from __future__ import annotations

import asyncio
import logging
import os

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.qube import states
from qubes_miragevpn.qube.firewall.conntrack import forget_flows
from qubes_miragevpn.qube.firewall.nft import FirewallError, NftTable
from qubes_miragevpn.qube.firewall.routing import (
    FAMILIES,
    OUR_PRIORITIES,
    Assignment,
    backstop,
    closing_routes,
    names_rules,
    narrowed,
    rules,
)
from qubes_miragevpn.qube.firewall.table import CLOSED, FirewallDemand
from qubes_miragevpn.qube.firewall.uplink import Signature, Uplink
from qubes_miragevpn.qube.settings import tunnel_mark, tunnel_table
from qubes_miragevpn.qube.states import Demand, Live
from qubes_miragevpn.runtime.netlink.netconf import Netconf, NetRoute

Table = tuple[str, str]
"""An nftables table: family and name."""

QUBES_TABLES = frozenset({("ip", "qubes"), ("ip6", "qubes"), ("ip", "qubes-firewall"), ("ip6", "qubes-firewall")})

_log = logging.getLogger("miragevpn.firewall")


class Enforcer:
    """The barriers of the machine, for all tunnels.

    `needed` are tables of Qubes' without which nothing ever opens. `own`: this qube's own programs may use tunnel 0.
    """

    def __init__(
        self,
        netconf: Netconf,
        uplink: Uplink,
        assignment: Assignment,
        nft: NftTable | None = None,
        needed: frozenset[Table] = frozenset(),
        *,
        own: bool = False,
    ) -> None:
        self._own = own
        self._askers: tuple[int, ...] = ()
        self._netconf = netconf
        self._uplink = uplink
        self._nft = nft or NftTable()
        self._assignment = assignment
        self._demands: dict[int, Demand] = {index: Demand() for index in assignment}
        self._applied: FirewallDemand | None = None
        self._carried: dict[int, Live] = {}  # what each tunnel was when it last was open: whose flows there are
        self._guarded = needed
        self.missing: frozenset[Table] = frozenset()  # of Qubes' tables; while there are any, everything is closed
        # a kernel without IPv6 (ipv6.disable=1) has nothing to close there
        self._families = FAMILIES if os.path.exists("/proc/sys/net/ipv6") else FAMILIES[:1]
        self._lock = asyncio.Lock()

    async def start(self) -> Signature:
        """Close everything, whatever was before; raises if the machine does not let us."""
        async with self._lock:
            try:
                await self._set_firewall(CLOSED)
            finally:  # a barrier that cannot be had is no reason to leave the others out
                await self._mend_routing()
            for index in self._assignment:
                await self._set_routes(index, ())
            self._forget_all()
            return await self._uplink.keep()

    async def enforce(self, index: int, wanted: Demand) -> None:
        """Make tunnel `index` have what it demands; after an error everything of it is closed."""
        async with self._lock:
            if self._demands.get(index) == wanted and self._applied is not None:
                return
            try:
                await self._change(index, wanted)
            except BaseException:
                self._demands[index] = Demand()
                self._applied = None
                await self._close_after_error(index)
                raise

    async def assign(self, assignment: Assignment) -> None:
        """Let other downstream interfaces use the tunnels; what is taken from one is closed first."""
        async with self._lock:
            if assignment == self._assignment:
                return
            before, self._assignment = self._assignment, narrowed(self._assignment, assignment)
            for index in assignment:
                self._demands.setdefault(index, Demand())
            await self._set_firewall(self._wanted())  # what keeps its tunnel goes on all the while
            self._assignment = assignment
            await self._mend_routing()
            for index, vifs in before.items():
                if vifs is None or vifs - (assignment.get(index) or frozenset()):
                    self._forget(tunnel_mark(index))
            self._forget()
            await self._set_firewall(self._wanted())

    def live(self, index: int) -> Live | None:
        """What tunnel `index` is, if it is demanded to be open."""
        return self._demands.get(index, Demand()).live

    async def let_ask(self, askers: tuple[int, ...]) -> None:
        """Let these users (numbers) ask the resolvers of tunnel 0, by it, while it is open; none: nobody."""
        async with self._lock:
            if askers != self._askers:
                self._askers = askers
                await self._set_firewall(self._wanted())
                await self._mend_routing()

    async def remove(self, index: int) -> None:
        """Forget tunnel `index`, which nobody is assigned to any more: what it wanted, its table, its flows."""
        async with self._lock:
            self._demands.pop(index, None)
            await self._set_firewall(self._wanted())
            self._carried.pop(index, None)
            self._forget(tunnel_mark(index))
            for route in await self._netconf.routes(tunnel_table(index)):
                await self._netconf.delete_route(route)

    async def _change(self, index: int, wanted: Demand) -> None:
        before = self._demands.get(index, Demand())
        reopened = before.live != wanted.live
        if reopened:
            self._demands[index] = Demand(wanted.marked)
            await self._set_firewall(self._wanted())
            await self._set_routes(index, states.routes(index, wanted))
            self._forget()
            if wanted.live is not None and self._carried.get(index) != wanted.live:
                self._forget(tunnel_mark(index))
                self._carried[index] = wanted.live
        self._demands[index] = wanted
        if reopened and self._askers:
            await self._mend_routing()
        if wanted.live is not None:
            await self._look_at_qubes()
        await self._set_firewall(self._wanted())

    async def _close_after_error(self, index: int) -> None:
        for step in (self._set_firewall(self._wanted()), self._set_routes(index, ()), self._mend_routing()):
            try:
                await step
            except MirageError as error:
                _log.error("while closing: %s", error)

    def _wanted(self) -> FirewallDemand:
        demands = self._demands
        if self.missing:
            demands = {index: Demand(each.marked) for index, each in demands.items()}
        return states.firewall(demands, self._assignment, own=self._own, askers=self._askers)

    async def _look_at_qubes(self) -> None:
        """Remember which of Qubes' tables were ever there, and see which of those are not now."""
        there = await self._nft.tables()
        self._guarded |= there & QUBES_TABLES
        before, self.missing = self.missing, self._guarded - there
        if self.missing != before:
            names = ", ".join(" ".join(table) for table in sorted(self.missing))
            if names:
                _log.error("Qubes' own firewall is not whole (%s): closed until it is", names)
            else:
                _log.info("Qubes' own firewall is whole again")

    async def _set_firewall(self, wanted: FirewallDemand) -> None:
        if wanted == self._applied:
            return
        self._applied = None
        await self._nft.apply(wanted)
        self._applied = wanted

    async def _set_routes(self, index: int, wanted: tuple[NetRoute, ...]) -> None:
        keep = {route.key for route in (*wanted, *closing_routes(self._assignment))}
        for route in await self._netconf.routes(tunnel_table(index)):
            if route.key not in keep:
                await self._netconf.delete_route(route)
        for route in wanted:
            await self._netconf.replace_route(route)

    def _forget_all(self) -> None:
        """Nothing but our transport's flows lives on."""
        for mark in (0, *(tunnel_mark(index) for index in self._assignment)):
            self._forget(mark)
        self._carried.clear()

    def _forget(self, mark: int = 0) -> None:
        """A flow of the old state must not live on. The barriers hold without this, so failing is a warning."""
        try:
            forget_flows(mark)
        except FirewallError as error:
            _log.warning("%s", error)

    # --- healing ------------------------------------------------------------------------------------------

    async def heal(self) -> Signature:
        """Mend what is not as demanded; return what the uplink is now. Raises if it cannot be mended."""
        async with self._lock:
            try:
                await self._mend_firewall()
            finally:
                if await self._mend_routing():
                    _log.error("policy rules or closing routes were missing: set again")
                    self._forget_all()
            return await self._uplink.keep()

    async def _mend_firewall(self) -> None:
        await self._look_at_qubes()
        intact = await self._nft.intact()
        if not intact:
            _log.error("the firewall table is missing or was changed: loading it again")
            self._applied = None
        if not intact or self._wanted() != self._applied:
            await self._set_firewall(self._wanted())
            self._forget_all()

    async def routes_present(self, index: int) -> bool:
        """True if the tunnel's routes are as its state demands; they vanish when its interface goes, or goes down."""
        wanted = states.routes(index, self._demands.get(index, Demand()))
        if not wanted:
            return True
        there = await self._netconf.routes(tunnel_table(index))
        return all(route in there for route in wanted)

    async def _mend_routing(self) -> bool:
        """Make rules and closing routes what they should be; True if something had to be done."""
        changed = False
        closing = [route for route in closing_routes(self._assignment) if route.family in self._families]
        for table in sorted({route.table for route in closing}):
            present = await self._netconf.routes(table)
            for route in closing:
                if route.table == table and route not in present:
                    await self._netconf.replace_route(route)
                    changed = True
        live = self.live(0)
        asking = names_rules(live.resolvers if live is not None else (), self._askers)
        all_rules = (*backstop(), *rules(self._uplink.name, self._assignment, own=self._own), *asking)
        wanted = [rule for rule in all_rules if rule.family in self._families]
        there = [rule for rule in await self._netconf.rules() if rule.priority in OUR_PRIORITIES]
        for rule in wanted:
            if rule not in there:
                await self._netconf.add_rule(rule)
                changed = True
        for rule in there:
            if rule not in wanted:
                await self._netconf.delete_rule(rule)
                changed = True
        return changed
