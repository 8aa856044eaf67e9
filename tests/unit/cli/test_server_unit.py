# SPDX-License-Identifier: BSD-2-Clause
"""The unit of a server on any Linux: what it starts, what it may, and what systemd says to it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "install" / "server" / "systemd" / "miragevpn-server@.service"
POWERS = ["CAP_NET_ADMIN CAP_NET_BIND_SERVICE"]
EXPOSURE = 3.0
"""What `systemd-analyze security` makes of it, of 10; a change that makes it worse is to be meant."""

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def values(key: str) -> list[str]:
    lines = (line.partition("=") for line in UNIT.read_text().splitlines())
    return [value for name, _, value in lines if name == key]


def test_what_it_starts_and_what_it_may() -> None:
    assert values("ExecStart") == ["/usr/bin/miragevpn server /etc/miragevpn/%i.conf"]
    assert values("ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert values("AmbientCapabilities") == values("CapabilityBoundingSet") == POWERS
    assert values("NoNewPrivileges") == ["yes"] and values("ProtectSystem") == ["strict"]
    assert values("RuntimeDirectory") == ["miragevpn-server-%i"]
    assert values("DeviceAllow") == ["/dev/net/tun rw"] and values("DevicePolicy") == ["closed"]
    for key in ("LimitNOFILE", "MemoryMax", "TasksMax", "TimeoutStopSec"):
        assert len(values(key)) == 1, key
    assert values("LimitCORE") == ["0"]


def instance(tmp_path: Path) -> Path:
    """The unit for one server, with a program that is there in place of ours."""
    made = tmp_path / "miragevpn-server@office.service"
    made.write_text(UNIT.read_text().replace("=/usr/bin/miragevpn ", "=/bin/true "))
    return made


@needs_analyze
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    command = ["systemd-analyze", "--man=no", "verify", str(instance(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=25)
    assert [line for line in done.stderr.splitlines() if "miragevpn" in line] == []


@needs_analyze
def test_the_exposure_that_systemd_sees(tmp_path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(instance(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if "offline" in done.stderr:
        pytest.skip("this systemd does not look at files (before 250)")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= EXPOSURE


def test_make_puts_it_where_systemd_looks(tmp_path: Path) -> None:
    command = ["make", "-s", "install-server-files", f"DESTDIR={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=25)
    made = tmp_path / "usr/lib/systemd/system/miragevpn-server@.service"
    assert made.read_bytes() == UNIT.read_bytes() and made.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "etc/miragevpn").stat().st_mode & 0o777 == 0o700
