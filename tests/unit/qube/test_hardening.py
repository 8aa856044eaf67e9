# SPDX-License-Identifier: BSD-2-Clause
"""What the unit takes away from the service, and that its memory goes into no file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[3] / "install" / "vm" / "systemd" / "qubes-miragevpn.service"
EXPOSURE = 2.1
"""What `systemd-analyze security` makes of the unit, of 10; a change that makes it worse is to be meant."""


def values(key: str) -> list[str]:
    lines = (line.partition("=") for line in UNIT.read_text().splitlines())
    return [value for name, _, value in lines if name == key]


def test_the_powers_that_are_left() -> None:
    """A user of its own with one capability, no way to another, and of the disk only its store."""
    assert values("User") == values("Group") == ["qubes-miragevpn"] and values("AmbientCapabilities") == [
        "CAP_NET_ADMIN"
    ]
    assert values("CapabilityBoundingSet") == ["CAP_NET_ADMIN"] and values("NoNewPrivileges") == ["yes"]
    assert values("ProtectSystem") == ["strict"] and values("ReadWritePaths") == ["/etc/qubes-miragevpn"]
    assert values("DeviceAllow") == ["/dev/net/tun rw"] and values("DevicePolicy") == ["closed"]


def test_every_resource_is_bounded_and_it_never_gives_up() -> None:
    for key in ("LimitNOFILE", "MemoryMax", "TasksMax", "WatchdogSec", "TimeoutStopSec"):
        assert len(values(key)) == 1, key
    assert values("LimitCORE") == ["0"]
    assert values("Restart") == ["always"] and values("StartLimitIntervalSec") == ["0"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_exposure_that_systemd_sees() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if "offline" in done.stderr:
        pytest.skip("this systemd does not look at files (before 250)")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= EXPOSURE


def test_no_core_and_no_tracing() -> None:
    """In a process of its own: not dumpable (prctl PR_GET_DUMPABLE is 3), core limit 0."""
    program = (
        "import ctypes, resource; from qubes_miragevpn.qube.hardening import no_dumps\n"
        "library = ctypes.CDLL(None)\n"
        "before = library.prctl(3, 0, 0, 0, 0); no_dumps()\n"
        "print(before, library.prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20, cwd=UNIT.parents[3]
    )
    assert done.stdout.split() == ["1", "0", "0", "0"]
