# SPDX-License-Identifier: BSD-2-Clause
"""The NAT of a server: its table as nft reads it, and what becomes of a machine that cannot have it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.runtime.plain.nat import Nat, _table
from tests.unit.runtime.netns import in_netns

NETWORKS = (ip_network("10.8.0.0/24"), ip_network("fd42:8::/64"))


@pytest.mark.parametrize("switched", ["eth0", ""])
def test_the_table(switched: str) -> None:
    text = _table("tun0", "eth0", switched, NETWORKS)
    assert 'ip saddr 10.8.0.0/24 oifname "eth0" masquerade' in text
    assert 'ip6 saddr fd42:8::/64 oifname "eth0" masquerade' in text
    assert ('elements = { "eth0" }' in text) is bool(switched), "what was open before stays as its owner has it"
    assert text.count("{") == text.count("}")


@pytest.mark.needs_root
def test_without_the_interface_nothing_is_begun() -> None:
    async def run() -> None:
        nat = Nat("tun9", NETWORKS)
        with pytest.raises(SystemRefused, match="no interface eth7"):
            await nat.up("eth7")
        await nat.close()

    in_netns(run)
