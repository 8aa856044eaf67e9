# SPDX-License-Identifier: BSD-2-Clause
"""Reading a profile whose private key has a password that no file holds: somebody is asked for it.

What was typed is kept in memory for later attempts, unless the profile says ``auth-nocache``, and forgotten when it
does not open the key any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from qubes_miragevpn.base.errors import KeyLocked
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import ClientConfig
from qubes_miragevpn.qube.profiles.store import Profiles

Ask = Callable[[str], Awaitable[Secret | None]]
"""Ask for the password of the key of the profile named; None if nobody answers."""


class Unlocking:
    """Reads profiles, each with the password of its key."""

    def __init__(self, profiles: Profiles, ask: Ask) -> None:
        self._profiles = profiles
        self._ask = ask
        self._typed: dict[str, Secret] = {}

    async def load(self, name: str, *, unless: asyncio.Event, within: float | None = None) -> ClientConfig | None:
        """Read profile `name`, and ask where that takes a password.

        None if `unless` comes before the answer. Raises `ConfigError`, `KeyLocked` if there is no answer `within` so
        many seconds, or not the right one.
        """
        try:
            return self._profiles.load(name, self._typed.get(name))
        except KeyLocked:
            self._typed.pop(name, None)
            typed = await self._answer(name, unless, within)
            if typed is None and unless.is_set():
                return None
            if typed is None:
                raise
        config = self._profiles.load(name, typed)
        if not config.auth_nocache:
            self._typed[name] = typed
        return config

    async def _answer(self, name: str, unless: asyncio.Event, within: float | None) -> Secret | None:
        asking = asyncio.ensure_future(self._ask(name))
        other = asyncio.create_task(unless.wait())
        try:
            await asyncio.wait((asking, other), timeout=within, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            asking.cancel()
            other.cancel()
            await asyncio.wait((asking, other))
