# SPDX-License-Identifier: BSD-2-Clause
"""Rules with names: what dom0 writes into sys-vpn's QubesDB, and what ``qubes-firewall`` makes of it there.

`Worker` plays the daemon's loop (qubes-core-agent-linux, qubesagent/firewall.py): root looks a name up when a qube's
rules are read, at the start and whenever an entry ``/qubes-firewall/ADDRESS`` is written; one name that is not found
shuts the qube; what was found is written to ``/dns/ADDRESS/NAME``.
"""

from __future__ import annotations

import shlex
import threading
from types import TracebackType
from urllib.parse import quote, unquote

from tests.lab import qubesfirewall
from tests.lab.network import python
from tests.lab.programs.qubesdb import ENTRIES, EVENTS
from tests.lab.qube import Qube

RULES = "/qubes-firewall"
SOME_NAME = "action=accept dsthost=web.lab proto=tcp dstports=80-80"
"""Such a rule is enough for root to be let ask, whosever it is."""


class QubesDb:
    """The database of a qube, with its tools; every user may read and write it."""

    def __init__(self, qube: Qube) -> None:
        self._entries, self._events = qube.path(str(ENTRIES)), qube.path(str(EVENTS))
        self._entries.mkdir()
        self._events.touch()
        self._entries.chmod(0o1777)
        self._events.chmod(0o666)
        for command in ("read", "multiread", "write"):
            line = shlex.join([*python("qubesdb.py"), command])
            qube.write(f"/usr/bin/qubesdb-{command}", f'#!/bin/sh\nexec {line} "$@"\n', 0o755)

    def write(self, path: str, value: str) -> None:
        """Set an entry; those below a qube's address are told of by the one at it."""
        file = self._entries / quote(path, safe="")
        file.write_text(value)
        file.chmod(0o666)

    def remove(self, path: str) -> None:
        """Remove the entries that begin so."""
        for file in self._entries.iterdir():
            if unquote(file.name).startswith(path):
                file.unlink()

    def below(self, path: str) -> dict[str, str]:
        """The entries that begin so, sorted."""
        names = sorted(unquote(file.name) for file in self._entries.iterdir())
        return {name: (self._entries / quote(name, safe="")).read_text() for name in names if name.startswith(path)}

    def set_rules(self, source: str, *rules: str) -> None:
        """What dom0 does: the rules of the qube with this address, and then that they are complete."""
        self.remove(f"{RULES}/{source}")
        self.write(f"{RULES}/{source}/policy", "drop")
        for number, rule in enumerate(rules):
            self.write(f"{RULES}/{source}/{number:04}", rule)
        self.write(f"{RULES}/{source}", "")
        with self._events.open("a") as events:
            events.write(f"{RULES}/{source}\n")

    def events(self) -> list[str]:
        """What was written so far, in order."""
        return self._events.read_text().splitlines()


def look_up(qube: Qube, name: str, user: str = "root") -> str:
    """The address that a program of this user's gets, or ""."""
    as_user = ("setpriv", "--reuid", user, "--clear-groups", "env", "RES_OPTIONS=timeout:3 attempts:1")
    done = qube.run(*as_user, *python("ask.py"), "name", name, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


class Worker:
    """The daemon, for IPv4; a context manager."""

    def __init__(self, qube: Qube, database: QubesDb) -> None:
        self._qube, self._database = qube, database
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.read: dict[str, tuple[str, ...]] = {}  # the rules in force, by address

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seen = len(self._database.events())
        for source in {path.split("/")[2] for path in self._database.below(f"{RULES}/")}:
            self._handle(source)
        while not self._stop.wait(0.05):
            events = self._database.events()
            for path in events[seen:]:
                if path.startswith(f"{RULES}/") and path.count("/") == 2:
                    self._handle(path.split("/")[2])
            seen = len(events)

    def _handle(self, source: str) -> None:
        rules, found = [], dict[str, str]()
        for key, text in self._database.below(f"{RULES}/{source}/").items():
            words = dict(word.split("=") for word in text.split()) if key[-4:].isdigit() else {}
            if words.get("specialtarget") == "dns":
                rules += qubesfirewall.DNS
            elif name := words.get("dsthost"):
                found[name] = look_up(self._qube, name)
                rules.append(f"ip daddr {found[name]} {words['proto']} dport {words['dstports']} accept")
        rules = rules if all(found.values()) else []
        qubesfirewall.reload(self._qube)
        qubesfirewall.set_rules(self._qube, source, tuple(rules))
        self._database.remove(f"/dns/{source}/")
        for name, address in found.items() if rules else ():
            self._database.write(f"/dns/{source}/{name}", address)
        self.read[source] = tuple(rules)
