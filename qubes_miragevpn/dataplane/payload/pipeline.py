# SPDX-License-Identifier: BSD-2-Clause
"""From an inner packet to what a key seals, and back: compression framing inside, fragments outside of it.

Pings and OCC messages go the same way as IP. A peer whose rules ask for nothing has no `Pipeline` at all.
"""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.dataplane.interface import PayloadRules
from qubes_miragevpn.dataplane.payload.compression import Framing
from qubes_miragevpn.dataplane.payload.fragment import Fragmenter


class Pipeline:
    """What `rules` ask for, for one peer, in both directions."""

    __slots__ = ("_fragments", "_framing")

    def __init__(self, rules: PayloadRules, entropy: Callable[[int], bytes]) -> None:
        framed = rules.compression is not Compression.NONE
        self._framing = Framing(rules.compression, decompress=rules.decompress) if framed else None
        self._fragments = Fragmenter(rules.fragment, entropy(1)[0]) if rules.fragment else None

    def outgoing(self, inner: bytes) -> list[bytes]:
        """What to seal for `inner`, in order; [] if it cannot be sent."""
        framed = inner if self._framing is None else self._framing.wrap(inner)
        return [framed] if self._fragments is None else self._fragments.split(framed)

    def incoming(self, plaintext: bytes, now: float) -> bytes | None:
        """The inner packet that `plaintext` holds or completes; raises `PeerError`."""
        whole = plaintext if self._fragments is None else self._fragments.join(plaintext, now)
        return whole if whole is None or self._framing is None else self._framing.unwrap(whole)


def make_pipeline(rules: PayloadRules, entropy: Callable[[int], bytes]) -> Pipeline | None:
    """The pipeline for `rules`, or None where there is nothing to do."""
    if rules.compression is Compression.NONE and not rules.fragment:
        return None
    return Pipeline(rules, entropy)
