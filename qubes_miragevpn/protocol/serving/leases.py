# SPDX-License-Identifier: BSD-2-Clause
"""Leases out of a range of numbers: one for each client, the same again for the same name where it is free.

What was given back rests for as long as there are others. Names are remembered up to a bound, the oldest go first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Container

from qubes_miragevpn.base.errors import Consequence, PeerError

MAX_REMEMBERED = 4096


class Leases:
    """The numbers from `first` to `last`, every `step`-th."""

    def __init__(self, first: int, last: int, step: int = 1) -> None:
        self._first, self._last, self._step = first, last, step
        self._next = first
        self.used: set[int] = set()
        self.remembered: dict[str, int] = {}
        self._owned: OrderedDict[int, None] = OrderedDict()  # what was claimed: its owner will come again
        self._had: Counter[int] = Counter()  # how many of those names had a number, or own it

    def lease(self, name: str) -> int:
        """Lease a number to the client `name`; raises `PeerError` (end of session) when none is free."""
        known = self.remembered.get(name)
        number = known if known is not None and known not in self.used else self._free()
        self.used.add(number)
        self._remember(name, number)
        return number

    def recall(self, name: str, number: int) -> None:
        """The client `name` had this number before, which it is given again; one that is not ours to give is not."""
        if self._first <= number <= self._last and (number - self._first) % self._step == 0:
            self._remember(name, number)

    def claim(self, number: int) -> None:
        """Take this very number, inside the range or not; raises `PeerError` (end of session) if it is taken."""
        if number in self.used:
            raise PeerError("its own address is another client's", Consequence.END_SESSION)
        self.used.add(number)
        if number not in self._owned:
            self._owned[number] = None
            self._had[number] += 1
            if len(self._owned) > MAX_REMEMBERED:
                self._had_no_more(self._owned.popitem(last=False)[0])

    def release(self, number: int) -> None:
        """Take a number back."""
        self.used.discard(number)

    def _remember(self, name: str, number: int) -> None:
        self._forget(name)
        self.remembered[name] = number
        self._had[number] += 1
        if len(self.remembered) > MAX_REMEMBERED:
            self._forget(next(iter(self.remembered)))

    def _forget(self, name: str) -> None:
        number = self.remembered.pop(name, None)
        if number is not None:
            self._had_no_more(number)

    def _had_no_more(self, number: int) -> None:
        self._had[number] -= 1
        if not self._had[number]:
            del self._had[number]

    def _free(self) -> int:
        # Begin after the last lease, so that an address rests before it is given to somebody else; what somebody had
        # or owns is given last.
        choices: tuple[Container[int], ...] = (self._had, ())
        for spared in choices:
            for _ in range((self._last - self._first) // self._step + 1):
                number = self._next
                self._next = self._next + self._step if self._next < self._last else self._first
                if number not in self.used and number not in spared:
                    return number
        raise PeerError("the address pool is used up", Consequence.END_SESSION)
