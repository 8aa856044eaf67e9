# SPDX-License-Identifier: BSD-2-Clause
"""The common part of both drivers: one machine, one timer, one data plane.

The machine is handed one event at a time and its effects are carried out at once and in order; events that this
causes wait for their turn. What goes wrong in here is a bug: it ends `run`, and `run` closes everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import fields
from typing import Protocol

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.dataplane.interface import (
    ControlPacket,
    Counters,
    DataPlane,
    Link,
    LinkFailed,
    PlaneEvent,
    TunFailed,
)
from qubes_miragevpn.protocol.contract import (
    ActivateKey,
    AddPeer,
    CloseTransport,
    Command,
    CountTraffic,
    Drop,
    Effect,
    Event,
    InstallKey,
    Level,
    Notify,
    PacketReceived,
    RemovePeer,
    RetireKey,
    SendInner,
    Stop,
    StopKind,
    TimerExpired,
    TrafficCounted,
    Transmit,
    TransportDown,
    UserCommand,
)
from qubes_miragevpn.runtime.driving.droplog import DropLog, lead

log = logging.getLogger("miragevpn.tunnel")

GOODBYE = 5.0  # seconds that a machine has to end after being asked to

_LEVELS = {
    Level.DEBUG: logging.DEBUG,
    Level.INFO: logging.INFO,
    Level.WARNING: logging.WARNING,
    Level.ERROR: logging.ERROR,
}


class Machine(Protocol):
    """A protocol machine, as `protocol.contract` describes it."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event, say what is to be done."""

    def next_deadline(self) -> float | None:
        """When `TimerExpired` is wanted, if at all."""


class Driver:
    """What both roles share: the machine, the timer, the data plane and the effects that concern those."""

    def __init__(self, machine: Machine, plane: DataPlane) -> None:
        self._machine = machine
        self._plane = plane
        self._begun = False
        self._early: list[Command] = []
        self._events: deque[Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._forced: asyncio.TimerHandle | None = None
        self._links: set[Link] = set()
        self._peers: set[int] = set()
        self._past = Counters()  # of peers that are gone
        self._drops = DropLog(log)

    # --- life

    def command(self, command: Command) -> None:
        """Pass the user's wish on. A machine that was asked to disconnect and does not end is ended."""
        if not self._begun:
            self._early.append(command)
            return
        if self._ended.done():
            return
        if command is Command.DISCONNECT and self._forced is None:
            stop = Stop(StopKind.ASKED, "disconnected")
            self._forced = self._loop.call_later(GOODBYE, self._end, stop)
        self._feed(UserCommand(command))

    def counters(self) -> Counters:
        """Totals of all peers that there are and were."""
        total = self._past
        for peer in self._peers:
            total = _sum(total, self._plane.counters(peer))
        return total

    def _begin(self) -> None:
        self._begun = True
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Stop] = self._loop.create_future()
        self._plane.start(self._occurred)

    async def _until_end(self) -> Stop:
        for command in self._early:  # given between the making of this driver and its run
            self.command(command)
        return await self._ended

    def _end(self, stop: Stop) -> None:
        if not self._ended.done():
            self._ended.set_result(stop)

    def _fail(self, error: BaseException) -> None:
        """A bug, or a machine that will not let us: `run` raises it."""
        if self._ended.done():
            log.error("after the end: %s", printable(repr(error)))
        else:
            self._ended.set_exception(error)

    def _finish(self) -> None:
        for timer in (self._timer, self._forced):
            if timer is not None:
                timer.cancel()
        self._past = self.counters()
        self._peers.clear()
        self._links.clear()
        self._plane.close()

    # --- the machine

    def _feed(self, event: Event) -> None:
        """Give `event` to the machine; events that its effects cause wait for their turn."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events and not self._ended.done():
                self._handle(self._events.popleft())
        except Exception as error:
            self._fail(error)
        finally:
            self._handling = False
        self._arm()

    def _handle(self, event: Event) -> None:
        for effect in self._machine.handle(event, self._loop.time()):
            self._carry_out(effect)
        if isinstance(event, TransportDown):
            self._close_link(event.link)

    def _arm(self) -> None:
        deadline = None if self._ended.done() else self._machine.next_deadline()
        if self._timer is not None:
            if deadline is not None and self._timer.when() == deadline:
                return
            self._timer.cancel()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._expired, deadline)

    def _expired(self, deadline: float) -> None:
        self._timer = None
        if self._loop.time() < deadline:  # the loop may be early by the resolution of its clock
            self._arm()
        else:
            self._feed(TimerExpired())

    def _carry_out(self, effect: Effect) -> None:
        raise NotImplementedError

    def _carry_out_common(self, effect: Effect) -> bool:
        """Do what is alike in both roles; False if the effect is not."""
        match effect:
            case Transmit(link, endpoint, packet):
                if link in self._links:
                    self._plane.send(link, endpoint, packet)
            case CloseTransport(link):
                self._close_link(link)
            case AddPeer(peer, link, endpoint, peer_id, limits):
                self._plane.add_peer(peer, link, endpoint, peer_id, limits)
                self._peers.add(peer)
            case RemovePeer(peer):
                self._remove_peer(peer)
            case InstallKey(peer, key_id, keys):
                self._plane.install_key(peer, key_id, keys)
            case ActivateKey(peer, key_id):
                self._plane.activate_key(peer, key_id)
            case RetireKey(peer, key_id):
                self._plane.retire_key(peer, key_id)
            case SendInner(peer, payload):
                self._plane.send_inner(peer, payload)
            case CountTraffic(peer):
                count = self._plane.counters(peer)
                self._feed(TrafficCounted(peer, count.bytes_in + count.bytes_out))
            case Notify(level, text, client):
                log.log(_LEVELS[level], "%s%s", lead(client), printable(text, 500), extra={"client": client})
            case Drop(reason, client):
                self._drops.add(reason, self._loop.time(), client)
            case Stop():
                self._end(effect)
            case _:
                return False
        return True

    def _close_link(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)
            self._plane.detach_link(link)

    def _remove_peer(self, peer: int) -> None:
        if peer in self._peers:
            self._past = _sum(self._past, self._plane.counters(peer))
            self._peers.remove(peer)
            self._plane.remove_peer(peer)

    def _occurred(self, event: PlaneEvent) -> None:
        """The data plane's reports."""
        if self._ended.done():
            return
        match event:
            case ControlPacket(link, endpoint, packet):
                self._feed(PacketReceived(link, endpoint, packet))
            case LinkFailed(link, reason):
                self._feed(TransportDown(link, reason))
            case TunFailed(reason):
                self._tun_failed(reason)
            case _:
                self._feed(event)

    def _tun_failed(self, reason: str) -> None:
        raise NotImplementedError


def _sum(one: Counters, other: Counters) -> Counters:
    return Counters(*(getattr(one, field.name) + getattr(other, field.name) for field in fields(Counters)))
