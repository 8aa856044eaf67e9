# SPDX-License-Identifier: BSD-2-Clause
"""Whether this process may change the network: known before anything is begun, and said with what to do."""

from __future__ import annotations

from pathlib import Path

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.runtime.tun import DEVICE

_CAP_NET_ADMIN = 12  # linux/capability.h


def demand_net_admin(status: Path = Path("/proc/self/status"), device: Path = Path(DEVICE)) -> None:
    """Raise `SystemRefused` unless we have CAP_NET_ADMIN and there is a TUN device to open."""
    effective = next(
        (int(line.split()[1], 16) for line in status.read_text(encoding="ascii").splitlines() if "CapEff:" in line), 0
    )
    if not effective >> _CAP_NET_ADMIN & 1:
        raise SystemRefused("making a tunnel's interface needs privilege", "run it as root, for example by sudo")
    if not device.exists():
        raise SystemRefused(f"{device} does not exist", "load the kernel module (modprobe tun)")
