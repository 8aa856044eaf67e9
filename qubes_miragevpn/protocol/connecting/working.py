# SPDX-License-Identifier: BSD-2-Clause
"""A working tunnel, as the end that connected sees it: its terms, its keys in the data plane, and how long it may last.

It begins when the settings are there, and dies with the conversation. Its methods return effects.
"""

from __future__ import annotations

from dataclasses import replace

from qubes_miragevpn.config.model import ClientConfig, Family, PulledOptions, Remote
from qubes_miragevpn.config.pushed import Updated, parse_push
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, Link, SockAddr
from qubes_miragevpn.protocol.contract import (
    ActivateKey,
    AddPeer,
    Effect,
    InstallKey,
    Level,
    Notify,
    RetireKey,
    SendInner,
    TunnelChanged,
)
from qubes_miragevpn.protocol.inquiry import Inquiries, differences
from qubes_miragevpn.protocol.leaving import Lifetime
from qubes_miragevpn.protocol.limits import carrier_of
from qubes_miragevpn.protocol.pushes import in_few_lines
from qubes_miragevpn.protocol.session import Session
from qubes_miragevpn.protocol.terms import Address, Terms
from qubes_miragevpn.protocol.wire import occ

PEER = 0
"""The data plane's handle of the one peer that a client has."""


class Working:
    """Driven by the conversation."""

    def __init__(
        self, config: ClientConfig, session: Session, terms: Terms, remote: Remote, endpoint: SockAddr, now: float
    ) -> None:
        self.terms = terms
        self.since = now
        self.lifetime = _lifetime(config, terms.pulled, now)
        self._config = config
        self._session = session
        self._remote = remote
        self._family = Family.IPV6 if len(endpoint) == 4 else Family.IPV4
        self._installed: set[int] = set()
        self._inquiries = self._questions()

    def _questions(self) -> Inquiries:
        common, proto, terms = self._config.common, self._remote.proto, self.terms
        framing = common.compression if terms.pulled.compression is None else terms.pulled.compression
        carrier = carrier_of(
            common, proto, terms.cipher, framing, peer_id=terms.peer_id != NO_PEER_ID, epoch=terms.pulled.epoch
        )
        return Inquiries(occ.build(common, proto, self._family, server=False), carrier)

    # --- its beginning

    def notes(self, server_options: str, *, pushed: bool) -> list[Effect]:
        """What the operator should know about the terms; `server_options` is the other end's options string."""
        whose = "pushed" if pushed else "own"
        lines = [self.terms.problem] if self.terms.problem else []
        lines += self._differences(server_options)
        lines += [f"{whose} option without effect: {line}" for line in self.terms.pulled.dropped]
        return [Notify(Level.WARNING, line) for line in lines]

    def _differences(self, server_options: str) -> list[str]:
        """How the other end's settings differ from what ours need."""
        common, pulled = self._config.common, self.terms.pulled
        settled = frozenset({"comp-lzo"} if pulled.compression is not None else ())
        settled |= {"tun-mtu"} if pulled.tunnel.mtu != common.tun_mtu else set()
        return differences(common, self._remote.proto, self._family, server_options, server=False, settled=settled)

    def joined(self, link: Link, endpoint: SockAddr) -> Effect:
        """Have the data plane know the peer."""
        return AddPeer(
            PEER, link, endpoint, self.terms.peer_id, self.terms.limits(self._config, self._remote, endpoint)
        )

    # --- its keys

    def has(self, key_id: int) -> bool:
        """The data plane has this key."""
        return key_id in self._installed

    @property
    def has_keys(self) -> bool:
        """The data plane has some key."""
        return bool(self._installed)

    def install(self, key_id: int) -> Effect:
        """Give the data plane the keys of an established slot."""
        pulled = self.terms.pulled
        keys = self._session.derive(key_id, self.terms.cipher, ekm=pulled.key_derivation_ekm, epoch=pulled.epoch)
        self._installed.add(key_id)
        return InstallKey(PEER, key_id, keys)

    def activate(self, key_id: int) -> list[Effect]:
        """Send under this key from now on."""
        return [ActivateKey(PEER, key_id)] if self.has(key_id) else []

    def retire(self, key_id: int) -> list[Effect]:
        """Forget this key."""
        if not self.has(key_id):
            return []
        self._installed.discard(key_id)
        return [RetireKey(PEER, key_id)]

    # --- while it works

    def asked(self, message: bytes, size: int, now: float) -> list[Effect]:
        """Answer what the peer asks in the data channel about settings and sizes."""
        answer = self._inquiries.answer(message, size, now)
        return [SendInner(PEER, answer)] if answer else []

    def update(self, updated: Updated, address: Address | None) -> list[Effect]:
        """Take what the server changed of what it pushed; raises `PeerError` (end of session) if that cannot be."""
        before = self.terms.pulled
        told: list[Effect] = [
            Notify(Level.INFO, f"the server would change '{name}', which is left as it is")
            for name in in_few_lines(updated.ignored)
        ]
        pulled = parse_push(updated.options, self._config, address)
        for line in in_few_lines(line for line in pulled.dropped if line not in before.dropped):
            told.append(Notify(Level.WARNING, f"pushed option without effect: {line}"))
        self.terms = replace(self.terms, pulled=replace(before, tunnel=pulled.tunnel, dropped=pulled.dropped))
        if pulled.tunnel != before.tunnel:
            told.append(Notify(Level.INFO, "the server changed the settings of the tunnel"))
            told.append(TunnelChanged(pulled.tunnel))
        return told


def _lifetime(config: ClientConfig, pulled: PulledOptions, now: float) -> Lifetime:
    timers = config.common.timers
    lasts = config.session_timeout if pulled.session_timeout is None else pulled.session_timeout
    idle, least = (timers.inactive, timers.inactive_bytes) if pulled.inactive is None else pulled.inactive
    return Lifetime(now, lasts, idle, least)
