# SPDX-License-Identifier: BSD-2-Clause
"""What a configuration asks for to look after its server: the status files and the management socket, for as long as
it runs. A file that cannot be written is said once, and tried again; the server goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Operating, OutputFile
from qubes_miragevpn.runtime import disk
from qubes_miragevpn.runtime.driver import ServerDriver
from qubes_miragevpn.runtime.operating.logbook import Logbook
from qubes_miragevpn.runtime.operating.management import Management
from qubes_miragevpn.runtime.operating.roster import Roster, State, prometheus, status

READABLE = 0o644
"""The mode of the metrics: another user's exporter reads them. The status file is its owner's alone."""

_log = logging.getLogger("miragevpn.server")


class Console:
    """`Operated` for one server, with all through which it is looked after. Paths count from `folder`."""

    def __init__(self, operating: Operating, folder: Path, title: str) -> None:
        self._operating = operating
        self._folder = folder
        self._title = title
        self._driver: ServerDriver | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._logbook = Logbook(operating.log_cache)
        self._management: Management | None = None

    async def start(self) -> None:
        """Listen at the management socket, and wait there if the server is to hold. Raises `SystemRefused`."""
        if self._operating.management is None:
            return
        logging.getLogger("miragevpn").addHandler(self._logbook)
        path = self._folder / self._operating.management
        self._management = Management(path, self, self._logbook, hold=self._operating.management_hold)
        await self._management.start()
        self._management.became(State("CONNECTING"))
        await self._management.released()

    def serve(
        self, driver: ServerDriver, ipv4: str = "", ipv6: str = "", listens: tuple[str, int] | None = None
    ) -> None:
        """The server runs: its own addresses inside the tunnel, and where it listens if it was told an address."""
        self._driver = driver
        if self._management is not None:
            self._management.became(State("ASSIGN_IP", "", ipv4, None, ipv6))
            self._management.became(State("CONNECTED", "SUCCESS", ipv4, listens, ipv6))
        self._keep_files()

    def reconfigure(self, operating: Operating) -> None:
        """Other files are kept from now on."""
        self._operating = operating
        self._tasks = [task for task in self._tasks if not task.done()]
        for task in self._tasks:
            task.cancel()
        if self._driver is not None:
            self._keep_files()

    def _keep_files(self) -> None:
        version = self._operating.status_version
        written: Mapping[str, tuple[OutputFile | None, Callable[[Roster], str], int]] = {
            "status": (self._operating.status, lambda roster: status(roster, version), 0o600),
            "metrics": (self._operating.metrics, prometheus, READABLE),
        }
        for what, (file, form, mode) in written.items():
            if file is not None:
                self._tasks.append(asyncio.get_running_loop().create_task(self._keep(what, file, form, mode)))

    async def close(self) -> None:
        """End all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._management is not None:
            self._management.became(State("EXITING"))
            await self._management.close()
        logging.getLogger("miragevpn").removeHandler(self._logbook)

    async def _keep(self, what: str, file: OutputFile, form: Callable[[Roster], str], mode: int) -> None:
        path, failed = self._folder / file.path, False
        while True:
            text = form(self.roster()).encode()
            try:
                await asyncio.to_thread(disk.write_file, path, text, mode)
                failed = False
            except OSError as error:
                if not failed:
                    _log.warning("%s: %s: %s", what, printable(str(path)), error.strerror)
                failed = True
            await asyncio.sleep(file.period)

    # --- what can be asked of the server

    def roster(self) -> Roster:
        """Who is connected."""
        return Roster(self._title, 0, ()) if self._driver is None else self._driver.roster(self._title)

    def size(self) -> int:
        """How many are."""
        return 0 if self._driver is None else self._driver.size

    def totals(self) -> tuple[int, int]:
        """Bytes received and sent since the start."""
        if self._driver is None:
            return 0, 0
        counters = self._driver.counters()
        return counters.bytes_in, counters.bytes_out

    def dismiss(self, number: int, message: str) -> bool:
        """Send a client away."""
        return self._driver is not None and self._driver.dismiss(number, message)

    def update(self, number: int | None, options: tuple[str, ...]) -> int:
        """Change what clients were pushed."""
        return 0 if self._driver is None else self._driver.update(number, options)

    def signal(self, name: str) -> None:
        """As if the signal had come."""
        os.kill(os.getpid(), signal.Signals[name])
