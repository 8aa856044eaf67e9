# SPDX-License-Identifier: BSD-2-Clause
"""The native data plane behind the interface that the reference has: threads without the interpreter's lock.

Here are only the calls down and the reports up; packets never come this way, but for those of the control channel.
Reports wait in a queue with a descriptor, which the loop watches. What this backend cannot do `runtime.backend` knows,
and does not choose it.

A bug in there ends the threads, not the process: links and TUN are reported as failed, nothing moves any more, and
the next link begins with new threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.dataplane._native import Engine, Rules, Slot
from qubes_miragevpn.dataplane.interface import (
    CompressedDropped,
    ControlPacket,
    Counters,
    DataKeys,
    DirectionKeys,
    Envelope,
    Floated,
    KeyExhausted,
    KeyInUse,
    Link,
    LinkFailed,
    OccMessage,
    PeerExited,
    PeerLimits,
    PeerSilent,
    PlaneEvent,
    SockAddr,
    TunFailed,
)

_log = logging.getLogger("miragevpn.pump")

_PEER_EVENTS: dict[str, Callable[..., PlaneEvent]] = {
    "key exhausted": KeyExhausted,
    "key in use": KeyInUse,
    "silent": PeerSilent,
    "exited": PeerExited,
    "occ": OccMessage,
    "floated": Floated,
    "compressed": lambda peer: CompressedDropped(peer, "'allow-compression' does not let it in"),
}

_FRAMING = {
    Compression.NONE: "none",
    Compression.LZO: "byte",
    Compression.STUB_LZO: "byte",
    Compression.STUB: "swapped",
    Compression.LZ4: "swapped",
    Compression.STUB_V2: "v2",
    Compression.LZ4_V2: "v2",
}


class NativePump:
    """`DataPlane` over `_native.Engine`; `server`, `client_to_client`: as the reference has them."""

    name = "native"

    def __init__(self, *, server: bool = False, client_to_client: bool = False) -> None:
        self._server = server
        self._among = client_to_client
        self._engine: Engine | None = None
        self._socks: dict[Link, tuple[socket.socket, SockAddr | None]] = {}
        self._gone: set[Link] = set()  # links and peers of threads that ended by a bug
        self._lost: set[int] = set()
        self._peers: set[int] = set()
        self._has_tun = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._report: Callable[[PlaneEvent], None] = _unheard

    # --- life

    def start(self, report: Callable[[PlaneEvent], None]) -> None:
        """Begin; a second call only changes who is told."""
        self._loop = asyncio.get_running_loop()
        self._report = report
        if self._engine is None:
            self._begin(self._loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> Engine:
        self._engine = Engine(self._server, self._among)
        loop.add_reader(self._engine.fileno(), self._occurred)
        return self._engine

    def close(self) -> None:
        """Stop, forget all keys, close the links' sockets."""
        self._report = _unheard
        self._end()
        for sock, _ in self._socks.values():
            sock.close()
        self._socks.clear()
        self._peers.clear()

    def _end(self) -> None:
        if self._engine is not None and self._loop is not None:
            self._loop.remove_reader(self._engine.fileno())
            self._engine.close()
        self._engine = None
        self._has_tun = False

    @property
    def _live(self) -> Engine:
        """The threads; those that are about to be used again after a bug are new ones."""
        if self._engine is not None:
            return self._engine
        if self._loop is None:
            raise MisuseError("the data plane was not started")
        return self._begin(self._loop)

    # --- reports

    def _occurred(self) -> None:
        if self._engine is None:
            return
        for kind, *about in self._engine.events():
            if kind == "broken":
                self._broken(str(about[0]))
                return
            event = self._event(str(kind), about)
            if event is not None:
                self._tell(event)

    def _event(self, kind: str, about: list[Any]) -> PlaneEvent | None:
        """The report as a value; None if it is about something that is gone meanwhile."""
        match kind:
            case "control" | "link failed" if about[0] not in self._socks:
                return None
            case "control":
                link, sender, packet = about
                sender = sender or self._socks[link][1]
                return None if sender is None else ControlPacket(link, sender, packet)
            case "link failed":
                return LinkFailed(*about)
            case "tun refused":
                _log.info("the TUN: %s, which go one by one from now on", about[0])
                return None
            case "tun failed":
                return TunFailed(*about) if self._has_tun else None
            case _:
                return _PEER_EVENTS[kind](*about) if about[0] in self._peers else None

    def _tell(self, event: PlaneEvent) -> None:
        try:
            self._report(event)
        except Exception as error:
            _log.error("%s was not handled: %s", type(event).__name__, printable(repr(error)))

    def _broken(self, reason: str) -> None:
        """Report everything as failed."""
        _log.error("the native data plane failed: %s", printable(reason))
        had_tun = self._has_tun
        self._lost |= self._peers
        self._peers.clear()
        self._gone |= self._socks.keys()
        self._end()
        for link in list(self._socks):
            self._tell(LinkFailed(link, "the data plane failed"))
        if had_tun:
            self._tell(TunFailed("the data plane failed"))

    # --- TUN and links

    def attach_tun(self, fd: int) -> None:
        """Read and write IP packets at `fd`."""
        if self._engine is None and self._loop is not None:
            return  # without links there is nothing to carry; whoever reconnects attaches it again
        _log.debug("the TUN offers %s", self._live.attach_tun(fd))
        self._has_tun = True

    def detach_tun(self) -> None:
        """Forget the TUN."""
        self._has_tun = False
        if self._engine is not None:
            self._engine.detach_tun()

    def attach_link(
        self, link: Link, sock: socket.socket, remote: SockAddr | None, envelope: Envelope | None = None
    ) -> None:
        """Take over `sock`."""
        if link in self._socks:
            raise MisuseError(f"link {link} is there already")
        if envelope is not None:
            raise MisuseError("the native data plane knows no envelopes")
        engine = self._live
        sock.setblocking(False)
        stream = sock.type == socket.SOCK_STREAM
        engine.attach_link(link, os.dup(sock.fileno()), stream, stream or remote is not None)
        self._socks[link] = sock, remote

    def detach_link(self, link: Link) -> None:
        """Send what the socket takes at once, close it."""
        if link not in self._socks:
            raise MisuseError(f"there is no link {link}")
        sock, _ = self._socks.pop(link)
        if link in self._gone:
            self._gone.remove(link)
        else:
            self._live.detach_link(link)
        sock.close()

    def send(self, link: Link, endpoint: SockAddr, packet: bytes) -> None:
        """Send a control packet; on a link that failed it is lost."""
        if link not in self._socks:
            raise MisuseError(f"there is no link {link}")
        if link not in self._gone:
            self._live.send(link, endpoint, packet)

    # --- peers and keys

    def add_peer(self, peer: int, link: Link, endpoint: SockAddr, peer_id: int, limits: PeerLimits) -> None:
        """Make `peer` known."""
        self._live.add_peer(peer, link, endpoint, peer_id, _rules(limits))
        self._peers.add(peer)
        self._lost.discard(peer)

    def update_peer(self, peer: int, *, peer_id: int | None = None, limits: PeerLimits | None = None) -> None:
        """Change what is given."""
        if peer not in self._lost:
            self._live.update_peer(peer, peer_id, None if limits is None else _rules(limits))

    def set_addresses(
        self,
        peer: int,
        addresses: tuple[IPv4Address | IPv6Address, ...],
        networks: tuple[IPv4Network | IPv6Network, ...] = (),
    ) -> None:
        """Give a server's peer its inner addresses, and the networks behind it."""
        if peer not in self._lost:
            behind = [(str(network.network_address), network.prefixlen) for network in networks]
            self._live.set_addresses(peer, [str(address) for address in addresses], behind)

    def remove_peer(self, peer: int) -> None:
        """Forget the peer with its keys."""
        if peer in self._lost:
            self._lost.remove(peer)
            return
        self._live.remove_peer(peer)
        self._peers.discard(peer)

    def install_key(self, peer: int, key_id: int, keys: DataKeys) -> None:
        """Open packets under `key_id` from now on."""
        if keys.since or not 0 <= key_id <= 7:
            raise MisuseError(f"key {key_id} cannot be one of the native data plane's")
        if peer not in self._lost:
            slot = Slot(keys.suite, _way(keys.send), _way(keys.receive), digest=keys.digest, epoch=keys.epoch)
            self._live.install_key(peer, key_id, slot)

    def activate_key(self, peer: int, key_id: int) -> None:
        """Seal under `key_id` from now on."""
        if peer not in self._lost:
            self._live.activate_key(peer, key_id)

    def retire_key(self, peer: int, key_id: int) -> None:
        """Forget `key_id`."""
        if peer not in self._lost:
            self._live.retire_key(peer, key_id)

    def send_inner(self, peer: int, payload: bytes) -> None:
        """Encrypt and send `payload` to `peer`."""
        if peer not in self._lost:
            self._live.send_inner(peer, payload)

    def counters(self, peer: int) -> Counters:
        """Totals of `peer`."""
        return Counters() if peer in self._lost else Counters(*self._live.counters(peer))

    @property
    def dropped_full(self) -> int:
        """Data packets lost to a full socket or a network error."""
        return self._live.dropped_full


def _rules(limits: PeerLimits) -> Rules:
    rules = limits.payload
    if rules.fragment or (rules.decompress and rules.compression is not Compression.NONE) or limits.bare:
        raise MisuseError("the native data plane cannot keep these rules")
    return Rules(
        ping=limits.ping,
        silence=limits.silence,
        replay_window=limits.replay_window,
        replay_time=limits.replay_time,
        mss4=limits.mss4,
        mss6=limits.mss6,
        reneg_bytes=limits.reneg_bytes,
        reneg_pkts=limits.reneg_pkts,
        floats=limits.floats,
        framing=_FRAMING[rules.compression],
    )


def _way(keys: DirectionKeys) -> tuple[bytes, bytes, bytes]:
    return keys.cipher_key.reveal(), keys.implicit_iv.reveal(), keys.hmac_key.reveal()


def _unheard(event: PlaneEvent) -> None:
    """Where reports go before `start` and after `close`."""
