# SPDX-License-Identifier: BSD-2-Clause
"""asyncio drivers: sockets, TUN, netlink, timers."""
