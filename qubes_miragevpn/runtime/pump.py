# SPDX-License-Identifier: BSD-2-Clause
"""The reference data plane on asyncio: carries packets between TUN, sockets and `dataplane.reference`.

Everything that happens here begins with a descriptor that is readable or writable, or with the one timer, or with a
call of the owner. Each turn handles a bounded batch and returns to the loop, so that neither direction, nor the control
channel, can keep the others waiting. No exception leaves into the loop: what the network or the TUN does becomes a
`LinkFailed` or `TunFailed`; a bug, here or in the owner's `report`, costs one batch or event and a line in the log.

Backpressure: while the only link takes no more, the TUN is not read, and its queue fills, as a full interface's would.
With several links that would let one slow peer stop the others: what is for it is dropped instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import ParamSpec

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.dataplane.ethernet.channel import SwitchedChannel
from qubes_miragevpn.dataplane.ethernet.switch import Switch
from qubes_miragevpn.dataplane.interface import (
    ControlPacket,
    Counters,
    DataKeys,
    Envelope,
    Link,
    LinkFailed,
    PeerLimits,
    PlaneEvent,
    SockAddr,
    TunFailed,
)
from qubes_miragevpn.dataplane.reference import DATA_OPCODES, DataChannel, Outgoing
from qubes_miragevpn.runtime.sockets.links import BATCH, Addressed, LinkBroken, TransportLink, open_link
from qubes_miragevpn.runtime.tun import hardware_address

TUN_READ = 16384  # larger than any MTU of a TUN that `framing.MAX_FRAME` allows

CONTROL_READ = 4096  # of what a relay says on its connection, to be thrown away

_log = logging.getLogger("miragevpn.pump")

_Arguments = ParamSpec("_Arguments")


def _contained(handler: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Make `handler` fit for the loop: an exception ends in the log, not in the loop's own handler."""

    @functools.wraps(handler)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            handler(*args, **kwargs)
        except Exception as error:
            _log.error("%s failed: %s", handler.__name__.strip("_"), printable(repr(error)))

    return call


class Pump:
    """`DataPlane` over the reference; the arguments are those of `DataChannel`, and of `SwitchedChannel`."""

    name = "reference"

    def __init__(self, *, server: bool = False, client_to_client: bool = False, switch: Switch | None = None) -> None:
        self._channel = DataChannel(server=server, client_to_client=client_to_client)
        if switch is not None:
            self._channel = SwitchedChannel(switch, client_to_client=client_to_client)
        self._switch = switch
        self._links: dict[Link, TransportLink] = {}
        self._controls: dict[Link, socket.socket] = {}  # connections that relays last as long as
        self._bare: set[Link] = set()  # without a control channel: whatever comes is data
        self._broken: set[Link] = set()  # reported as failed, not yet detached
        self._tun = -1
        self._paused = False  # the TUN is not read until a link takes packets again
        self._timer: asyncio.TimerHandle | None = None
        self._started: asyncio.AbstractEventLoop | None = None
        self._report: Callable[[PlaneEvent], None] = _unheard
        self.dropped_full = 0  # data packets lost to a full socket or a network error

    # --- life -------------------------------------------------------------------------------------------

    def start(self, report: Callable[[PlaneEvent], None]) -> None:
        """Begin."""
        self._started = asyncio.get_running_loop()
        self._report = report

    def close(self) -> None:
        """Stop, forget all keys, close the links' sockets."""
        self.detach_tun()
        for link in list(self._links):
            self.detach_link(link)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._channel = DataChannel()
        self._report = _unheard

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._started is None:
            raise MisuseError("the pump was not started")
        return self._started

    def attach_tun(self, fd: int) -> None:
        """Read and write IP packets at `fd`."""
        self.detach_tun()
        self._tun = fd
        if self._switch is not None:
            self._switch.own(hardware_address(fd))
        if not self._paused:
            self._loop.add_reader(fd, self._tun_readable)

    def detach_tun(self) -> None:
        """Forget the TUN."""
        if self._tun >= 0:
            self._loop.remove_reader(self._tun)
        self._tun = -1

    def attach_link(
        self, link: Link, sock: socket.socket, remote: SockAddr | None, envelope: Envelope | None = None
    ) -> None:
        """Take over `sock`, and the connection to a relay."""
        if link in self._links:
            raise MisuseError(f"link {link} is there already")
        self._links[link] = open_link(sock, remote, envelope.header if envelope is not None else b"")
        self._loop.add_reader(sock, self._link_readable, link)
        if envelope is not None:
            self._controls[link] = envelope.control
            self._loop.add_reader(envelope.control, self._control_readable, link)

    def detach_link(self, link: Link) -> None:
        """Send what the socket takes at once, close it."""
        transport = self._link(link)
        if link not in self._broken:
            with contextlib.suppress(LinkBroken):  # it is being closed anyway
                transport.flush()
            self._forget(transport)
        self._broken.discard(link)
        self._bare.discard(link)
        del self._links[link]
        transport.sock.close()
        control = self._controls.pop(link, None)
        if control is not None:
            self._loop.remove_reader(control)
            control.close()
        self._resume()

    def _link(self, link: Link) -> TransportLink:
        transport = self._links.get(link)
        if transport is None:
            raise MisuseError(f"there is no link {link}")
        return transport

    @_contained
    def _control_readable(self, link: Link) -> None:
        """A relay's connection says nothing more; its end is the end of the relay."""
        control = self._controls[link]
        try:
            ended = not control.recv(CONTROL_READ)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            self._loop.remove_reader(control)
            if link not in self._broken:
                self._link_failed(link, self._links[link], "the proxy ended the association")

    # --- TUN to wire ------------------------------------------------------------------------------------

    @_contained
    def _tun_readable(self) -> None:
        now = self._loop.time()
        read, seal, fd = os.read, self._channel.send, self._tun
        batch: list[Outgoing] = []
        for _ in range(BATCH):
            try:
                outgoing = seal(read(fd, TUN_READ), now)
            except BlockingIOError:
                break
            except OSError as error:
                self._tun_failed(error)
                break
            if self._channel.outbox:  # copies for several, or fragments that go ahead of the last one
                batch += self._channel.outbox
                self._channel.outbox.clear()
            if outgoing is not None:
                batch.append(outgoing)
        self._transmit(batch)
        self._settle(now)

    def _transmit(self, batch: list[Outgoing]) -> None:
        """Hand each link its packets of `batch` in one piece."""
        by_link: dict[Link, list[Addressed]] = {}
        for link, endpoint, packet in batch:
            by_link.setdefault(link, []).append((endpoint, packet))
        for link, packets in by_link.items():
            transport = self._links.get(link)
            if transport is None or link in self._broken:
                self.dropped_full += len(packets)
                continue
            try:
                self.dropped_full += transport.send(packets)
            except LinkBroken as broken:
                self._link_failed(link, transport, str(broken))
            else:
                self._watch(link, transport)

    def _watch(self, link: Link, transport: TransportLink) -> None:
        """If `transport` takes no more, wait until it does, and meanwhile leave the packets in the TUN if we can."""
        if not transport.blocked():
            return
        self._loop.add_writer(transport.sock, self._link_writable, link)
        if len(self._links) == 1 and not self._paused:
            self._paused = True
            if self._tun >= 0:
                self._loop.remove_reader(self._tun)

    @_contained
    def _link_writable(self, link: Link) -> None:
        transport = self._links[link]
        try:
            transport.flush()
        except LinkBroken as broken:
            self._link_failed(link, transport, str(broken))
            return
        if not transport.blocked():
            self._loop.remove_writer(transport.sock)
            self._resume()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._tun >= 0:
                self._loop.add_reader(self._tun, self._tun_readable)

    # --- wire to TUN ------------------------------------------------------------------------------------

    @_contained
    def _link_readable(self, link: Link) -> None:
        transport = self._links[link]
        try:
            packets = transport.receive()
        except LinkBroken as broken:
            self._link_failed(link, transport, str(broken))
            return
        now = self._loop.time()
        channel = self._channel
        for packet, endpoint in packets:
            if not packet:
                continue
            if packet[0] >> 3 in DATA_OPCODES or link in self._bare:
                inner = channel.receive(link, endpoint, packet, now)
                if inner is not None and self._tun >= 0:
                    self._write_tun(inner)
            else:
                sender = endpoint or transport.remote
                if sender is not None:
                    self._tell(ControlPacket(link, sender, packet))
            if channel.events:
                self._settle(now)
            if self._links.get(link) is not transport:
                return  # what we told made the owner close this link
        self._settle(now)

    def _write_tun(self, inner: bytes) -> None:
        try:
            os.write(self._tun, inner)
        except OSError as error:
            # A full queue or a packet that the kernel does not like is a lost packet.
            if error.errno in (errno.EIO, errno.EBADFD, errno.EBADF, errno.ENODEV):
                self._tun_failed(error)

    # --- what both directions leave behind --------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Send what the channel wants to be sent, tell the owner what it found."""
        channel = self._channel
        if channel.outbox:
            batch, channel.outbox = channel.outbox, []
            self._transmit(batch)
        if channel.events:
            events, channel.events = channel.events, []
            for event in events:
                self._tell(event)

    def _tell(self, event: PlaneEvent) -> None:
        try:
            self._report(event)
        except Exception as error:
            _log.error("%s was not handled: %s", type(event).__name__, printable(repr(error)))

    def _tun_failed(self, error: OSError) -> None:
        self.detach_tun()
        self._tell(TunFailed(os.strerror(error.errno or errno.EIO)))

    def _link_failed(self, link: Link, transport: TransportLink, reason: str) -> None:
        """Stop using `transport`, which stays until the owner detaches it."""
        if link in self._broken or self._links.get(link) is not transport:
            return
        self._broken.add(link)
        self._forget(transport)
        self._resume()
        self._tell(LinkFailed(link, reason))

    def _forget(self, transport: TransportLink) -> None:
        if transport.sock.fileno() >= 0:
            self._loop.remove_reader(transport.sock)
            self._loop.remove_writer(transport.sock)

    # --- time -------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """See to it that the timer does not fire after the channel's next deadline; earlier does no harm."""
        deadline = self._channel.next_deadline()
        if deadline is None or (self._timer is not None and self._timer.when() <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._timer_fired)

    @_contained
    def _timer_fired(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._channel.tick(now)
        self._arm()
        self._settle(now)

    # --- the owner's calls ------------------------------------------------------------------------------

    def send(self, link: Link, endpoint: SockAddr, packet: bytes) -> None:
        """Send a control packet; on a link that failed it is lost."""
        transport = self._link(link)
        if link in self._broken:
            return
        try:
            transport.send_control(endpoint, packet)
        except LinkBroken as broken:
            # Not at once: the owner is in the middle of something of its own.
            self._loop.call_soon(self._link_failed, link, transport, str(broken))
        else:
            self._watch(link, transport)

    def add_peer(self, peer: int, link: Link, endpoint: SockAddr, peer_id: int, limits: PeerLimits) -> None:
        """Make `peer` known."""
        self._link(link)
        if limits.bare:
            self._bare.add(link)
        self._channel.add_peer(peer, link, endpoint, peer_id, limits)

    def update_peer(self, peer: int, *, peer_id: int | None = None, limits: PeerLimits | None = None) -> None:
        """Change what is given."""
        self._channel.update_peer(peer, self._loop.time(), peer_id=peer_id, limits=limits)
        self._arm()

    def set_addresses(
        self,
        peer: int,
        addresses: tuple[IPv4Address | IPv6Address, ...],
        networks: tuple[IPv4Network | IPv6Network, ...] = (),
    ) -> None:
        """Give a server's peer its inner addresses, and the networks behind it."""
        self._channel.set_addresses(peer, addresses, networks)

    def remove_peer(self, peer: int) -> None:
        """Forget the peer with its keys."""
        self._channel.remove_peer(peer)

    def install_key(self, peer: int, key_id: int, keys: DataKeys) -> None:
        """Receive under `key_id` from now on."""
        self._channel.install_key(peer, key_id, keys, self._loop.time())
        self._arm()

    def activate_key(self, peer: int, key_id: int) -> None:
        """Send under `key_id` from now on."""
        self._channel.activate_key(peer, key_id, self._loop.time())
        self._arm()

    def retire_key(self, peer: int, key_id: int) -> None:
        """Forget `key_id`."""
        self._channel.retire_key(peer, key_id)

    def send_inner(self, peer: int, payload: bytes) -> None:
        """Encrypt and send `payload` to `peer`."""
        self._channel.send_inner(peer, payload, self._loop.time())
        batch, self._channel.outbox = self._channel.outbox, []
        self._transmit(batch)

    def counters(self, peer: int) -> Counters:
        """Totals of `peer`."""
        return self._channel.counters(peer)


def _unheard(event: PlaneEvent) -> None:
    """Where reports go before `start` and after `close`."""
