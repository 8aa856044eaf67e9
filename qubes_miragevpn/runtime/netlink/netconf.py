# SPDX-License-Identifier: BSD-2-Clause
"""Changes to links, addresses, routes and rules from asyncio, with a journal that takes them back.

`Netconf` runs `runtime.netlink.rtnl.Kernel` in one thread of its own, so changes happen one after the other, in the
order of their calls, and never hold the event loop. The journal keeps, for every object touched, what was there
before the first touch; `undo()` restores that, the latest touched first. It therefore stays as small as the
number of different objects, however often a tunnel reconnects, and what was put back by hand is not undone.

"Is there already" and "is not there" are no errors. Everything else is `SystemRefused` (with what to do) or
`NetconfError`. `Watcher` tells of changes by anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from qubes_miragevpn.base.errors import MirageError, MisuseError
from qubes_miragevpn.runtime.netlink.netvalues import (
    FULL_MASK,
    MAIN_TABLE,
    Address,
    NetAddress,
    NetLink,
    NetRoute,
    NetRule,
    RouteType,
    RuleAction,
)
from qubes_miragevpn.runtime.netlink.rtnl import Kernel, NetconfError, NoSuchLink
from qubes_miragevpn.runtime.netlink.rtnlwatch import AddressEvent, EventsLost, LinkEvent, NetEvent, RouteEvent, Watcher

__all__ = [
    "FULL_MASK",
    "MAIN_TABLE",
    "AddressEvent",
    "EventsLost",
    "LinkEvent",
    "NetAddress",
    "NetEvent",
    "NetLink",
    "NetRoute",
    "NetRule",
    "Netconf",
    "NetconfError",
    "NoSuchLink",
    "RouteEvent",
    "RouteType",
    "RuleAction",
    "Watcher",
]

T = TypeVar("T")
_log = logging.getLogger("miragevpn.netconf")


@dataclass(frozen=True)
class _Before:
    """A journal entry: what it is about, what was there, and how to get that back."""

    what: str
    state: object
    restore: Callable[[Kernel], None]


class Netconf:
    """The machine's network configuration. Use from one event loop; `close()` when done.

    The thread begins, in the network namespace of the caller, with the first operation.
    """

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netconf")
        self._kernel: Kernel | None = None  # belongs to the worker, like the journal
        self._journal: dict[Hashable, _Before] = {}
        self._closed = False

    # --- links

    async def links(self) -> list[NetLink]:
        """Every interface."""
        return await self._run(Kernel.links)

    async def link(self, dev: str) -> NetLink | None:
        """The interface called `dev`, or None."""
        return await self._run(lambda kernel: kernel.link(dev))

    async def link_exists(self, dev: str) -> bool:
        """True if there is an interface called `dev`."""
        return await self.link(dev) is not None

    async def link_index(self, dev: str) -> int:
        """The number of `dev`; raises `NoSuchLink`."""
        return await self._run(lambda kernel: kernel.index(dev))

    async def set_link(
        self, dev: str, *, up: bool | None = None, mtu: int | None = None, txqueuelen: int | None = None
    ) -> None:
        """Change what is given; raises `NoSuchLink`."""

        def work(kernel: Kernel) -> None:
            before = kernel.link(dev)
            if before is None:
                raise NoSuchLink(dev)
            wanted = {
                "mtu": (mtu, before.mtu),
                "txqlen": (txqueuelen, before.txqueuelen),
                "state": (None if up is None else _state(up), _state(before.up)),
            }
            changes = {name: new for name, (new, old) in wanted.items() if new not in (None, old)}
            for name in changes:
                self._note_link(before, name, wanted[name][1])
            if changes:
                kernel.set_link(dev, **changes)
            for name, value in changes.items():
                self._settle(("link", before.index, name), value)

        await self._run(work)

    # --- addresses

    async def addresses(self, dev: str | None = None) -> list[NetAddress]:
        """The addresses of `dev`, or of every interface."""
        return await self._run(lambda kernel: kernel.addresses(dev))

    async def replace_address(self, address: NetAddress) -> None:
        """Give `address.dev` this address; one with the same IP but another prefix or peer makes room for it."""

        def work(kernel: Kernel) -> None:
            before = _same_ip(kernel, address)
            if before == address:
                return
            self._note_address(before, address)
            if before is not None:
                kernel.remove_address(before)
            kernel.add_address(address)
            self._settle(_address_key(address), address)

        await self._run(work)

    async def remove_address(self, address: NetAddress) -> None:
        """Take the address away from `address.dev`; not there, or no such interface, is no error."""

        def work(kernel: Kernel) -> None:
            before = _same_ip(kernel, address)
            if before is not None:
                self._note_address(before, address)
                kernel.remove_address(before)
                self._settle(_address_key(address), None)

        await self._run(work)

    # --- routes

    async def routes(self, table: int = MAIN_TABLE, family: int | None = None) -> list[NetRoute]:
        """The routes of `table`, of one family or both."""
        return await self._run(lambda kernel: kernel.routes(table, family))

    async def default_routes(self, family: int | None = None) -> list[NetRoute]:
        """The default routes of the main table, best metric first."""
        found = [route for route in await self.routes(MAIN_TABLE, family) if route.network.prefixlen == 0]
        return sorted(found, key=lambda route: (route.network.version, route.key[2]))

    async def route_to(self, address: Address) -> NetRoute | None:
        """How an unmarked packet of this machine to `address` goes now, as a host route; None if it does not."""
        return await self._run(lambda kernel: kernel.route_to(address))

    async def replace_route(self, route: NetRoute) -> None:
        """Set the route, in the place of one with the same table, network and metric."""

        def work(kernel: Kernel) -> None:
            before = _same_key(kernel, route)
            if before != route:
                self._note_route(before, route)
                kernel.replace_route(route)
                self._settle(("route", route.key), route)

        await self._run(work)

    async def delete_route(self, route: NetRoute) -> None:
        """Delete the route with this table, network and metric; not there is no error."""

        def work(kernel: Kernel) -> None:
            before = _same_key(kernel, route)
            if before is not None:
                self._note_route(before, route)
                kernel.delete_route(before)
                self._settle(("route", route.key), None)

        await self._run(work)

    async def restore_route(self, route: NetRoute) -> None:
        """Undo what was done about the route with this table, network and metric, and nothing else."""

        def work(kernel: Kernel) -> None:
            entry = self._journal.pop(("route", route.key), None)
            if entry is not None:
                with contextlib.suppress(NoSuchLink):
                    entry.restore(kernel)

        await self._run(work)

    async def flush_table(self, table: int, family: int | None = None) -> None:
        """Delete every route of `table`, which must not be a table of the system's own."""
        if table in (0, 253, 254, 255):
            raise MisuseError(f"flushing table {table} would cut the machine off")

        def work(kernel: Kernel) -> None:
            for route in kernel.routes(table, family):
                self._note_route(route, route)
                kernel.delete_route(route)
                self._settle(("route", route.key), None)

        await self._run(work)

    # --- rules

    async def rules(self, family: int | None = None) -> list[NetRule]:
        """The policy rules, of one family or both."""
        return await self._run(lambda kernel: kernel.rules(family))

    async def add_rule(self, rule: NetRule) -> None:
        """Add the rule; there already is no error."""
        await self._set_rule(rule, True)

    async def delete_rule(self, rule: NetRule) -> None:
        """Delete the rule; not there is no error."""
        await self._set_rule(rule, False)

    async def _set_rule(self, rule: NetRule, wanted: bool) -> None:
        def change(kernel: Kernel, there: bool) -> None:
            (kernel.add_rule if there else kernel.delete_rule)(rule)

        def work(kernel: Kernel) -> None:
            if (rule in kernel.rules(rule.family)) != wanted:
                self._note(("rule", rule), f"rule {rule.priority}", not wanted, lambda k: change(k, not wanted))
                change(kernel, wanted)
                self._settle(("rule", rule), wanted)

        await self._run(work)

    # --- the journal

    async def undo(self) -> tuple[str, ...]:
        """Restore everything touched, the latest first; what cannot be restored is logged and named in the answer."""

        def work(kernel: Kernel) -> tuple[str, ...]:
            failed = []
            while self._journal:
                _, entry = self._journal.popitem()
                try:
                    entry.restore(kernel)
                except NoSuchLink:
                    continue  # gone with all that hung on it
                except MirageError as error:
                    failed.append(f"{entry.what}: {error}")
            return tuple(failed)

        failed = await self._run(work)
        for line in failed:
            _log.warning("not restored: %s", line)
        return failed

    async def forget(self) -> None:
        """Keep every change for good: what was done so far will not be undone."""
        await self._run(lambda kernel: self._journal.clear())

    async def close(self) -> None:
        """End the worker; does not undo. Twice is fine."""
        if self._closed:
            return
        self._closed = True

        def work() -> None:
            if self._kernel is not None:
                self._kernel.close()

        try:
            await asyncio.get_running_loop().run_in_executor(self._worker, work)
        finally:
            self._worker.shutdown(wait=False)

    def _note(self, key: Hashable, what: str, state: object, restore: Callable[[Kernel], None]) -> None:
        """Remember how `key` was before its first touch (worker only)."""
        self._journal.setdefault(key, _Before(what, state, restore))

    def _settle(self, key: Hashable, state: object) -> None:
        """Forget `key` if it is again as it was before the first touch (worker only)."""
        entry = self._journal.get(key)
        if entry is not None and entry.state == state:
            del self._journal[key]

    def _note_link(self, link: NetLink, name: str, value: object) -> None:
        def restore(kernel: Kernel) -> None:
            kernel.set_link(link.name, **{name: value})

        self._note(("link", link.index, name), f"{name} of {link.name}", value, restore)

    def _note_address(self, before: NetAddress | None, touched: NetAddress) -> None:
        def restore(kernel: Kernel) -> None:
            now = _same_ip(kernel, touched)
            if now is not None and now != before:
                kernel.remove_address(now)
            if before is not None:
                kernel.add_address(before)

        self._note(_address_key(touched), f"{touched.interface} on {touched.dev}", before, restore)

    def _note_route(self, before: NetRoute | None, touched: NetRoute) -> None:
        def restore(kernel: Kernel) -> None:
            now = _same_key(kernel, touched)
            if before is not None:
                kernel.replace_route(before)
            elif now is not None:
                kernel.delete_route(now)

        self._note(("route", touched.key), f"route {touched.network} in table {touched.table}", before, restore)

    async def _run(self, work: Callable[[Kernel], T]) -> T:
        if self._closed:
            raise MisuseError("Netconf is closed")

        def call() -> T:
            if self._kernel is None:
                self._kernel = Kernel()
            return work(self._kernel)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, call)
        except OSError as error:
            raise NetconfError("netlink", error.errno or errno.EIO) from error


def _state(up: bool) -> str:
    return "up" if up else "down"


def _address_key(address: NetAddress) -> Hashable:
    return "address", address.dev, address.interface.ip


def _same_ip(kernel: Kernel, address: NetAddress) -> NetAddress | None:
    there = kernel.addresses(address.dev)
    return next((each for each in there if each.interface.ip == address.interface.ip), None)


def _same_key(kernel: Kernel, route: NetRoute) -> NetRoute | None:
    return next((each for each in kernel.routes(route.table, route.family) if each.key == route.key), None)
