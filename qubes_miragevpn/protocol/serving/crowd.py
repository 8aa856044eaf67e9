# SPDX-License-Identifier: BSD-2-Clause
"""A bounded number of those who have not proved who they are, shared fairly by the sources from which they come.

One source has a share at the most. Where all places are taken, whoever comes from a source with fewer of them takes
the place of the one who has been there longest of the largest crowd. So a few hosts that hold everything keep nobody
out, and of very many, each alone, none stays for longer than it takes to fill all places anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from qubes_miragevpn.base.errors import PeerError

Member = TypeVar("Member", bound=Hashable)


class Crowd(Generic[Member]):
    """`most` members in all, `share` of one source; `what` names them in the reason of a refusal."""

    def __init__(self, most: int, share: int, what: str) -> None:
        self._most = most
        self._share = share
        self._what = what
        self._members: dict[Member, Hashable] = {}  # in the order in which they came
        self._of: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: Member) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def room(
        self,
        source: Hashable,
        *,
        last: Callable[[Member], bool] = lambda _: False,
        yields: Callable[[Member], bool] = lambda _: False,
    ) -> Member | None:
        """Who has to go for one more of `source`, if anybody. Raises `PeerError` (drop) if nobody has.

        Those who are `last` go after others of their crowd. The first of all may go for somebody of the largest
        crowd as well, if it `yields`.
        """
        if self._of[source] >= self._share:
            raise PeerError(f"too many {self._what} from one address")
        if len(self._members) < self._most:
            return None
        largest = max(self._of.values())
        if self._of[source] < largest:
            crowd = [member for member, its in self._members.items() if self._of[its] == largest]
            return next((member for member in crowd if not last(member)), crowd[0])
        if yields(first := next(iter(self._members))):
            return first
        raise PeerError(f"too many {self._what}")

    def add(self, member: Member, source: Hashable) -> None:
        """Take one in, for whom there is room."""
        self._members[member] = source
        self._of[source] += 1

    def remove(self, member: Member) -> None:
        """It has gone, if it was here."""
        source = self._members.pop(member, None)
        if source is not None:
            self._of[source] -= 1
            if not self._of[source]:
                del self._of[source]
