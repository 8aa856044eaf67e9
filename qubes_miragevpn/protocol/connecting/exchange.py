# SPDX-License-Identifier: BSD-2-Clause
"""A session over one open transport: what it says leaves as effects, what happens in it goes to who inherits from this.

An error of the peer's either costs its packet or ends all: `Over`, after the TLS alert that tells the peer why.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.dataplane.interface import Link, SockAddr
from qubes_miragevpn.protocol.contract import Drop, Effect, Level, Notify, Transmit
from qubes_miragevpn.protocol.control.tls import CertificateUnwanted
from qubes_miragevpn.protocol.ends import End, Over
from qubes_miragevpn.protocol.happenings import Happening
from qubes_miragevpn.protocol.session import Session


class Exchange(ABC):
    """`effects` is what is to be done; who takes them leaves an empty list."""

    def __init__(self, session: Session, link: Link, endpoint: SockAddr, *, insists: bool) -> None:
        """`insists`: a server that does not want our certificate is tried again, for that is what the profile asks."""
        self.link = link
        self.effects: list[Effect] = []
        self._session = session
        self._endpoint = endpoint
        self._insists = insists

    @abstractmethod
    def _happened(self, happening: Happening, now: float) -> None:
        """Act on what happened in the session."""

    def _guarded(self, action: Callable[[], None], now: float) -> None:
        """Do something with the session and turn what came of it into effects."""
        try:
            action()
            self._collect(now)
        except PeerError as error:
            self._fail(error)

    def _fail(self, error: PeerError) -> None:
        if error.consequence is Consequence.DROP:
            self.effects.append(Drop(error.reason))
            return
        self._transmit(self._session.drain()[0])
        ends = error.consequence is Consequence.FATAL
        if isinstance(error, CertificateUnwanted) and self._insists:
            ends = False
        raise Over(End.REFUSED if ends else End.LOST, error.reason)

    def _transmit(self, packets: list[bytes]) -> None:
        self.effects += [Transmit(self.link, self._endpoint, packet) for packet in packets]

    def _collect(self, now: float) -> None:
        """Turn what the session did into effects, until it has nothing more to say."""
        while True:
            packets, happenings = self._session.drain()
            self._transmit(packets)
            if not happenings:
                return
            for happening in happenings:
                self._happened(happening, now)

    def _say(self, level: Level, text: str) -> None:
        self.effects.append(Notify(level, text))
