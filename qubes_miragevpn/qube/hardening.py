# SPDX-License-Identifier: BSD-2-Clause
"""Keeping the service's memory, which holds keys and passwords, out of core dumps and of other processes' reach.

The unit forbids core files as well (LimitCORE=0); this holds however the service is started. A process that is not
dumpable is not traced by others of its user either, and its /proc files are root's alone. Facts: prctl(2),
PR_SET_DUMPABLE; core(5): a pipe in core_pattern is fed whatever the limit says, but not for such a process.
"""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4


def no_dumps() -> None:
    """Make this process leave no core; raises OSError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "PR_SET_DUMPABLE")
