# SPDX-License-Identifier: BSD-2-Clause
"""A link between two machines that loses, repeats, delays and corrupts packets by a seeded rule.

One notation for all reliability tests, `rule("loss 30% dup 10% reorder 20% corrupt 5%", seed)`, or exact fates by
position: `script("..x.2~")` where each packet in turn is ``.`` delivered, ``x`` lost, ``2`` delivered twice, ``~``
delayed past its followers, ``!`` delivered with one bit flipped; after the end of the script everything is delivered.
"""

from __future__ import annotations

import random
from collections.abc import Callable

LATENCY = 0.05  # seconds, one way
DELAY = 0.4  # what ``~`` and ``reorder`` add

Fates = list[tuple[float, bytes]]
"""When (seconds from now) and what arrives of one packet."""
Rule = Callable[[bytes], Fates]


def perfect(packet: bytes) -> Fates:
    """Everything arrives, once and in order."""
    return [(LATENCY, packet)]


def rule(text: str, seed: int) -> Rule:
    """Probabilities, in the notation of the module's docstring."""
    words = text.split()
    chance = {name: int(value.rstrip("%")) / 100 for name, value in zip(words[::2], words[1::2], strict=True)}
    dice = random.Random(seed)

    def decide(packet: bytes) -> Fates:
        if dice.random() < chance.get("loss", 0):
            return []
        delay = LATENCY + (DELAY if dice.random() < chance.get("reorder", 0) else 0)
        if dice.random() < chance.get("corrupt", 0):
            packet = flip(packet, dice.randrange(len(packet) * 8))
        copies = 2 if dice.random() < chance.get("dup", 0) else 1
        return [(delay + copy * LATENCY / 2, packet) for copy in range(copies)]

    return decide


def script(fates: str, seed: int = 1) -> Rule:
    """Exact fates, in the notation of the module's docstring."""
    left = list(fates)
    dice = random.Random(seed)

    def decide(packet: bytes) -> Fates:
        match left.pop(0) if left else ".":
            case "x":
                return []
            case "2":
                return [(LATENCY, packet), (LATENCY * 1.5, packet)]
            case "~":
                return [(LATENCY + DELAY, packet)]
            case "!":
                return [(LATENCY, flip(packet, dice.randrange(len(packet) * 8)))]
        return [(LATENCY, packet)]

    return decide


def flip(packet: bytes, bit: int) -> bytes:
    """`packet` with one bit turned over."""
    changed = bytearray(packet)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
