# SPDX-License-Identifier: BSD-2-Clause
"""Where ``miragevpn service`` may run: in what dom0 made a VPN qube, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli import service
from qubes_miragevpn.cli.main import main
from tests.unit.qube.test_units import SYSTEMD, values


def test_a_machine_that_is_no_vpn_qube_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would lose its network; said in one line, with what to do instead, before anything is looked at."""
    monkeypatch.setattr(service.demand_vpn_qube, "__defaults__", (tmp_path / "miragevpn",))
    monkeypatch.setattr("asyncio.run", lambda _: pytest.fail("the service began"))
    assert main(["service"]) == ExitCode.SYSTEM
    (line,) = capsys.readouterr().err.splitlines()
    assert "no VPN qube" in line and "qvm-service" in line and "miragevpn client FILE" in line


def test_a_vpn_qube_is_known_by_what_its_units_look_at(tmp_path: Path) -> None:
    """The program asks for what systemd asks for."""
    assert str(service.FLAG) in values(SYSTEMD / "qubes-miragevpn.service", "ConditionPathExists")
    flag = tmp_path / "miragevpn"
    with pytest.raises(SystemRefused):
        service.demand_vpn_qube(flag)
    flag.write_bytes(b"")
    service.demand_vpn_qube(flag)
