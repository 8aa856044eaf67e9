# SPDX-License-Identifier: BSD-2-Clause
"""How long a conversation waits: for the server's first answer, then for its settings, which are asked for meanwhile.

Sources: OpenVPN's ``server-poll-timeout`` (or ``connect-timeout``), ``hand-window``, and AUTH_PENDING.
"""

from __future__ import annotations

from qubes_miragevpn.config.model import Timers
from qubes_miragevpn.protocol.ends import End, Over

PUSH_AGAIN = 5.0  # seconds between PUSH_REQUESTs
_NO_ANSWER = "(server unreachable, or its tls-auth or tls-crypt key is another)"


class Waiting:
    """Until the tunnel works."""

    def __init__(self, timers: Timers, now: float) -> None:
        self.heard = False  # the server answered with something valid
        self._timers = timers
        self._began = now
        self._settings_by = now + timers.hand_window
        self._ask_at = 0.0

    def require_answer(self, now: float) -> None:
        """Raises `Over` (lost) where the server has kept silent for too long."""
        if not self.heard and now >= self._began + self._timers.connect_timeout:
            raise Over(End.LOST, f"no answer within {self._timers.connect_timeout:g} s {_NO_ANSWER}")

    def require_settings(self, now: float, *, handshaken: bool, suspicion: str) -> None:
        """Raises `Over` (lost) where the settings should be there; `suspicion` is what may be wrong."""
        if now >= self._settings_by:
            problem = "the server pushed no settings" if handshaken else "no TLS handshake"
            hint = suspicion if self.heard else f" {_NO_ANSWER}"
            raise Over(End.LOST, f"{problem} within {self._settings_by - self._began:g} s{hint}")

    def must_ask(self, now: float) -> bool:
        """The settings should be asked for, once more."""
        return now >= self._ask_at

    def asked(self, now: float) -> None:
        """The settings were asked for."""
        self._ask_at = now + PUSH_AGAIN

    def deadlines(self, *, works: bool, handshaken: bool) -> list[float]:
        """When one of these is due."""
        times = [] if self.heard else [self._began + self._timers.connect_timeout]
        if not works:
            times.append(self._settings_by)
            if handshaken:
                times.append(self._ask_at)
        return times

    def extend(self, timeout: float | None, now: float) -> float:
        """The login takes longer; as OpenVPN, at most half the time between renewals, or the hand-window.

        Return the seconds that are left.
        """
        timers = self._timers
        most = max(timers.reneg_sec / 2, timers.hand_window)
        wait = min(timers.hand_window if timeout is None else timeout, most)
        self._settings_by = min(max(self._settings_by, now + wait), self._began + timers.hand_window + most)
        return self._settings_by - now
