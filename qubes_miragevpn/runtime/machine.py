# SPDX-License-Identifier: BSD-2-Clause
"""What ``push-peer-info`` tells a server about this machine: the kernel's release, the uplink's hardware address.

Both identify their owner, so nothing calls this unless the profile asks for it. The uplink is the interface of the
default route, or, where the main table has none (as in a VPN qube), the one that Qubes gives its uplink. Sources:
OpenVPN ssl.c push_peer_info; proc(5), "/proc/net/route"; netdevice(7).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path

UPLINK = "eth0"
_ROUTES = Path("/proc/net/route")
_ANYWHERE = "00000000"
_SIOCGIFHWADDR = 0x8927
_ETHERNET = 1  # ARPHRD_ETHER


def about_this_machine() -> tuple[tuple[str, str], ...]:
    """Peer info lines as names and values; what is not to be had is left out."""
    address = _hardware_address(_uplink())
    return (*([("IV_HWADDR", address)] if address else []), ("IV_PLAT_VER", os.uname().release))


def _uplink() -> str:
    """Destination and mask are the second and eighth word of a line, the metric the seventh."""
    try:
        lines = [line.split() for line in _ROUTES.read_text(encoding="ascii").splitlines()[1:]]
    except (OSError, ValueError):
        return UPLINK
    defaults = [words for words in lines if len(words) > 7 and words[1] == words[7] == _ANYWHERE and words[6].isdigit()]
    return min(defaults, key=lambda words: int(words[6]))[0] if defaults else UPLINK


def _hardware_address(interface: str) -> str:
    """The Ethernet address of `interface`, or "" if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", interface.encode()[:15]))
        except OSError:
            return ""
    kind, address = struct.unpack_from("=H6s", answer, 16)
    return address.hex(":") if kind == _ETHERNET else ""
