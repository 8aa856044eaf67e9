# SPDX-License-Identifier: BSD-2-Clause
"""What a server is told about this machine, if that is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qubes_miragevpn.runtime import machine

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
WLAN = "wlan0\t00000000\t0100000A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
LAN = "lan0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
LINK = "eth9\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n"


@pytest.mark.parametrize(
    ("routes", "interface"),
    [(HEAD + WLAN + LAN, "lan0"), (HEAD + LINK, "eth0"), (None, "eth0"), ("junk\n\n1 2 3\n", "eth0"), (HEAD, "eth0")],
)
def test_which_interface_is_the_uplink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, routes: str | None, interface: str
) -> None:
    asked = []
    monkeypatch.setattr(machine, "_ROUTES", tmp_path / "route")
    monkeypatch.setattr(machine, "_hardware_address", lambda name: asked.append(name) or "02:00:00:00:00:01")
    if routes is not None:
        (tmp_path / "route").write_text(routes)
    about = dict(machine.about_this_machine())
    assert asked == [interface] and about == {"IV_HWADDR": "02:00:00:00:00:01", "IV_PLAT_VER": os.uname().release}


@pytest.mark.parametrize("interface", ["lo", "no-such-interface", ""])
def test_what_has_no_ethernet_address_has_none_to_tell(interface: str) -> None:
    assert machine._hardware_address(interface) == ""
