# SPDX-License-Identifier: BSD-2-Clause
"""An event loop whose clock jumps to the next timer instead of waiting for it: plays with pauses take no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Skipping(selectors.DefaultSelector):
    skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            self.skipped += timeout
            timeout = 0
        return super().select(timeout)


class _FastLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.skipped


def run(play: Coroutine[Any, Any, None]) -> None:
    """Run `play`; only timers may wait, not descriptors."""
    with asyncio.Runner(loop_factory=_FastLoop) as runner:
        runner.run(play)
