# SPDX-License-Identifier: BSD-2-Clause
"""The walk over a profile's remotes: every address of every name in turn, a pause after each whole pass.

Pure policy: it is asked for the next step and told what came of it. After a connection that lasted, the walk
begins again with the address that worked and with the shortest pause; after one that hardly worked, with the other
remotes and after a pause that grows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.config.model import Family, Remote, Timers
from qubes_miragevpn.protocol.wire.authfailed import Advance

MAX_ADDRESSES = 16  # of one name, per pass
MAX_BACKOFF = 3600.0  # seconds that a server may have us wait
LOOK_AGAIN = 5.0  # seconds between the look-ups of ``resolv-retry``, as openvpn's


@dataclass(frozen=True)
class Try:
    """Open a transport to `address`."""

    remote: Remote
    address: IPv4Address | IPv6Address


@dataclass(frozen=True)
class Lookup:
    """Resolve the remote's name, then call `resolved` (with nothing if it failed) and ask again."""

    remote: Remote


@dataclass(frozen=True)
class Wait:
    """A name could not be resolved and is to be looked up once more (``resolv-retry``): wait, then ask again."""

    seconds: float


@dataclass(frozen=True)
class Pause:
    """A pass is over without success: wait `seconds`, then ask again."""

    seconds: float


@dataclass(frozen=True)
class GiveUp:
    """``connect-retry-max`` passes failed."""


Step = Try | Lookup | Wait | Pause | GiveUp


class Remotes:
    """The state of the walk."""

    def __init__(
        self, remotes: tuple[Remote, ...], timers: Timers, *, shuffle: bool, entropy: Callable[[int], bytes]
    ) -> None:
        order = list(remotes)
        if shuffle:  # a random key per remote; 8 bytes make ties irrelevant
            order.sort(key=lambda _: entropy(8))
        self._order = tuple(order)
        self._timers = timers
        self._queue: deque[Remote] = deque(self._order)
        self._addresses: deque[Try] = deque()
        self._once_more: deque[Wait | Lookup] = deque()
        self._unanswered = 0  # look-ups of one remote in a row
        self._passes = 0
        self._pause = timers.connect_retry
        self._known: dict[str, IPv4Address | IPv6Address] = {}  # where each name was good the last time

    def next(self) -> Step:
        """What to do next."""
        if self._once_more:
            return self._once_more.popleft()
        if self._addresses:
            return self._addresses.popleft()
        if self._queue:
            remote = self._queue.popleft()
            literal = _literal(remote)
            return Try(remote, literal) if literal is not None else Lookup(remote)
        self._passes += 1
        if self._timers.connect_retry_max and self._passes >= self._timers.connect_retry_max:
            return GiveUp()
        self._queue.extend(self._order)
        return Pause(self._growing_pause())

    def resolved(self, remote: Remote, addresses: tuple[IPv4Address | IPv6Address, ...]) -> None:
        """Addresses for the `Lookup` of `remote`, in the order to try them; those that cannot be it are left out."""
        self._unanswered = 0
        fitting = [a for a in addresses if _fits(remote.hop[2], a) and _one_machines(a)]
        self._addresses.extend(Try(remote, address) for address in fitting[:MAX_ADDRESSES])

    def unresolved(self, remote: Remote) -> bool:
        """The `Lookup` of `remote` failed: go on with the address where its name was good; tell if there is one.

        If there is none, the name is looked up again for as long as ``resolv-retry`` says.
        """
        known = self._known.get(remote.hop[0])
        if known is not None and _fits(remote.hop[2], known):
            self._unanswered = 0
            self._addresses.append(Try(remote, known))
            return True
        self._unanswered += 1
        if self._unanswered * LOOK_AGAIN < self._timers.resolv_retry:
            self._once_more.extend((Wait(LOOK_AGAIN), Lookup(remote)))
        else:
            self._unanswered = 0
        return False

    def worked(self, step: Try) -> None:
        """A tunnel to `step` works or has worked: its address is remembered for when its name has no answer."""
        self._known[step.remote.hop[0]] = step.address

    def again(self, last: Try, *, lasted: bool, elsewhere: bool = False) -> float:
        """Begin the walk anew after the connection to `last`, which worked for a while (`lasted`) or hardly.

        `elsewhere`: with the other remotes all the same. Returns the seconds to wait before the next step.
        """
        rest = [remote for remote in self._order if remote != last.remote]
        self._queue = deque([*rest, last.remote])
        self._addresses = deque([last] if lasted and not elsewhere else [])
        self._once_more.clear()
        self._unanswered = 0
        if lasted:
            self._passes = 0
            self._pause = self._timers.connect_retry
            return 0.0
        return self._growing_pause()

    def same(self, last: Try) -> None:
        """Go on with `last`, whatever else comes then."""
        self._addresses.appendleft(last)

    def later(self, last: Try, backoff: float | None, advance: Advance) -> float:
        """`last` asks us to come back; returns the seconds to wait before the next step."""
        if advance is Advance.SAME:
            self.same(last)
        elif advance is Advance.REMOTE:
            self._addresses.clear()
        most = self._timers.connect_retry_max
        if not self._addresses and not self._queue and (not most or self._passes + 1 < most):
            self._passes += 1  # the pause between two passes is this one
            self._queue.extend(self._order)
        return self._growing_pause() if backoff is None else min(max(backoff, self._timers.connect_retry), MAX_BACKOFF)

    def refresh(self) -> None:
        """What failed before says nothing any more (another uplink): the next pause is the first one again."""
        self._pause = self._timers.connect_retry

    def _growing_pause(self) -> float:
        pause, self._pause = self._pause, min(self._pause * 2, self._timers.connect_retry_max_pause)
        return pause


def _literal(remote: Remote) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(remote.hop[0])
    except ValueError:
        return None


def _one_machines(address: IPv4Address | IPv6Address) -> bool:
    """Whoever answers for a name may name any machine (it proves itself later), but neither none nor all of them."""
    return not (address.is_unspecified or address.is_multicast or int(address) == 2**32 - 1)


def _fits(family: Family, address: IPv4Address | IPv6Address) -> bool:
    return family is Family.ANY or (family is Family.IPV4) == (address.version == 4)
