# SPDX-License-Identifier: BSD-2-Clause
"""Names in the rules that dom0 gives to qubes behind (``dsthost=NAME``): who may look them up, and when that is done.

`qubes-firewall` looks such a name up in this qube, when it reads a qube's rules, and shuts the qube whose rules hold
one that it does not find (qubes-core-agent-linux, qubesagent/firewall.py). But programs of this qube's own use neither
uplink nor tunnel. So while some rule holds a name, and only then, those who ask (root, and the user of
systemd-resolved, which is asked in Fedora's templates) may send questions to the resolvers of tunnel 0, through it.

What was looked up in vain is not looked up again by itself. So when the tunnel opens, `qubes-firewall` is told to read
those rules anew by what dom0 ends a change of them with: an empty value at ``/qubes-firewall/ADDRESS``. QubesDB lets
every user of a qube write that. What it found is at ``/dns/ADDRESS/NAME``: as long as something is missing there it is
told again, a few times. Where the very same tunnel opens again and all is there, it is not told: new addresses would
end connections to the old ones. Nothing that QubesDB says reaches rules of ours: it decides whether there are any.
"""

from __future__ import annotations

import asyncio
import logging
import pwd
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.qube import qdb
from qubes_miragevpn.qube.states import Live

RULES, FOUND = "/qubes-firewall/", "/dns/"
RESOLVED = "systemd-resolve"  # the user of systemd-resolved
PERIOD = 5.0  # seconds between looks at the rules
PAUSES = (5.0, 15.0, 40.0)  # seconds after which what is missing is asked for again; four times in all

_log = logging.getLogger("miragevpn.names")


def askers() -> tuple[int, ...]:
    """The numbers of the users who look names up for `qubes-firewall`."""
    found = {0}
    with suppress(KeyError):
        found.add(pwd.getpwnam(RESOLVED).pw_uid)
    return tuple(sorted(found))


def named(rules: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """The names in each qube's rules, by the qube's address; `rules` are QubesDB's entries below `RULES`."""
    found: dict[str, set[str]] = {}
    for key, rule in rules.items():
        source, _, number = key.removeprefix(RULES).partition("/")
        names = {word.removeprefix("dsthost=") for word in rule.split() if word.startswith("dsthost=")}
        if names and number.isdigit() and _is_address(source):
            found.setdefault(source, set()).update(names)
    return {source: frozenset(names) for source, names in found.items()}


def _is_address(text: str) -> bool:
    with suppress(ValueError):
        return bool(ip_address(text))
    return False


@dataclass
class _Asked:
    """Which names of a qube's were asked for, through which tunnel, how often, and when again at the soonest."""

    names: frozenset[str]
    live: Live
    times: int = 0
    again: float = 0.0


class Names:
    """`run` is its life. `let_ask` opens the way for some users, or (nobody) closes it; `live` is tunnel 0, if open."""

    def __init__(
        self,
        let_ask: Callable[[tuple[int, ...]], Awaitable[None]],
        live: Callable[[], Live | None],
        users: tuple[int, ...],
    ) -> None:
        self._let_ask = let_ask
        self._live = live
        self._users = users
        self._asked: dict[str, _Asked] = {}
        self._attention = asyncio.Event()

    def opened(self) -> None:
        """Tunnel 0 has just opened: what is missing is asked for from the beginning."""
        for asked in self._asked.values():
            asked.times, asked.again = min(asked.times, 1), 0.0
        self._attention.set()

    async def run(self) -> None:
        """Look at the rules from time to time, and when the tunnel opens; for ever."""
        while True:
            self._attention.clear()
            try:
                await self.look()
            except (MirageError, OSError) as error:
                _log.error("names in rules: %s", printable(str(error)))
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await self._attention.wait()

    async def look(self) -> None:
        """Open or close the way as the rules want it; have names looked up that are due."""
        wanted = named(await qdb.below(RULES))
        await self._let_ask(self._users if wanted else ())
        self._asked = {source: asked for source, asked in self._asked.items() if source in wanted}
        live = self._live()
        if live is None:
            return
        now = asyncio.get_running_loop().time()
        for source, names in wanted.items():
            asked = self._asked.get(source)
            if asked is None or (asked.names, asked.live) != (names, live):
                asked = self._asked[source] = _Asked(names, live)
            if now < asked.again or (asked.times and await _known(source, names)):
                continue
            asked.again = now + PAUSES[asked.times] if asked.times < len(PAUSES) else float("inf")
            asked.times += 1
            _log.info("names in the rules of %s are looked up", source)
            await qdb.write(RULES + source, "")


async def _known(source: str, names: frozenset[str]) -> bool:
    """True if all were found; of one whose entry QubesDB cannot hold that is assumed."""
    found = await qdb.below(f"{FOUND}{source}/")
    keys = {f"{FOUND}{source}/{name}" for name in names}
    return all(key in found for key in keys if len(key) < qdb.MAX_PATH)
