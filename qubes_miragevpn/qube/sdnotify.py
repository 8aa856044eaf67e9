# SPDX-License-Identifier: BSD-2-Clause
"""Telling systemd how we are: sd_notify(3), a datagram to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from qubes_miragevpn.base.text import printable

_log = logging.getLogger("miragevpn.service")


class Notifier:
    """Sends states to systemd; without it, does nothing. `watchdog`: seconds between two WATCHDOG=1, or 0."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog = 0.0
        period = environ.get("WATCHDOG_USEC", "")
        if period.isascii() and period.isdigit() and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self.watchdog = int(period) / 1e6 / 2

    def send(self, **states: str) -> None:
        """Send, for example, ``READY="1", STATUS="connected"``; a systemd that does not listen is no error."""
        if not self._address.startswith(("/", "\0")):
            return
        message = "\n".join(f"{name}={printable(value)}" for name, value in states.items()).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as link:
                link.sendto(message, self._address)
        except OSError as error:
            _log.debug("sd_notify: %s", error.strerror)
