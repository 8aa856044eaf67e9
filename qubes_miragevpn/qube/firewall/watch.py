# SPDX-License-Identifier: BSD-2-Clause
"""Being woken by any change to nftables or to the policy rules, whoever made it.

The messages are not read but for being there: what is to be done does not depend on what they say, it is to look at
the whole again. Lost messages (ENOBUFS) wake as well. Facts: netlink(7), linux/netfilter/nfnetlink.h
(NFNLGRP_NFTABLES), linux/rtnetlink.h (RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

_log = logging.getLogger("miragevpn.firewall")

_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_READS = 64  # messages taken at one wake-up; the rest wake again

NFTABLES = (12, (7,))  # NETLINK_NETFILTER, NFNLGRP_NFTABLES
RULES = (0, (8, 19))  # NETLINK_ROUTE, RTNLGRP_IPV4_RULE and RTNLGRP_IPV6_RULE


class ChangeSignal:
    """Calls `changed` on the running loop after a change of the given kind; use inside a running loop."""

    def __init__(self, kind: tuple[int, tuple[int, ...]], changed: Callable[[], None]) -> None:
        protocol, groups = kind
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, flags, protocol)
        try:
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(_READS):
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: more happened than fits, which is a change too
                break
        self._changed()

    def close(self) -> None:
        """Stop listening. Twice is fine."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
