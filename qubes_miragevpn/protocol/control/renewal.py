# SPDX-License-Identifier: BSD-2-Clause
"""When a session's key is renewed, under which id, and how long the new one waits for the peer to have it too.

Source: OpenVPN's ssl.c (``reneg-sec``, key_state_soft_reset, the activation of a key) and ssl_common.h.
"""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.config.model import Timers
from qubes_miragevpn.protocol.control.legality import Role

_KEY_IDS = 7  # renegotiations use 1..7 and begin again at 1


def following(key_id: int) -> int:
    """The key id of the renegotiation after `key_id`."""
    return key_id % _KEY_IDS + 1


def renewal_after(timers: Timers, role: Role, entropy: Callable[[int], bytes]) -> float:
    """Seconds after which we renew a key; a server spreads its clients' renewals over a tenth by itself."""
    spread = timers.reneg_sec / 10 if role is Role.SERVER else 0.0
    if timers.reneg_sec_least is not None:
        spread = max(timers.reneg_sec - timers.reneg_sec_least, 0.0)
    return timers.reneg_sec - spread * int.from_bytes(entropy(4), "big") / 2**32


def waiting_time(timers: Timers, renew_after: float) -> float:
    """Seconds for which a new key is only received under, unless the peer uses it before."""
    return min(timers.hand_window, renew_after / 2) if renew_after else timers.hand_window
