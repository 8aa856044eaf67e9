# SPDX-License-Identifier: BSD-2-Clause
"""The lab itself: without our lockdown everything leaks and is counted, so a zero elsewhere means something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.appvm import Noise, ask, seen_address
from tests.lab.capture import Capture
from tests.lab.network import Lab, python
from tests.lab.packets import Kind
from tests.lab.places import DNS4, FOREIGN_DNS4, NET4, NET6, UPLINK, WEB6
from tests.lab.qube import processes_in


def test_without_lockdown_an_appvm_reaches_the_internet_in_clear() -> None:
    """A network qube of plain Qubes rules forwards IPv4, IPv6 and DNS at once, and each is counted."""
    with Lab(None) as lab, Capture(lab) as capture:
        work = lab.appvms["work"]
        assert seen_address(work) == NET4
        assert seen_address(work, WEB6) == NET6
        assert ask(work, "name", "web.lab") == "203.0.113.80"
        assert ask(work, "resolver") == "internet"
        assert ask(work, "resolver", FOREIGN_DNS4) == "foreign"
        seen = capture.result()
        assert seen.leaks > 20, seen
        assert {"IPv4 TCP", "IPv6 TCP", "IPv4 UDP"} <= set(seen.clear_kinds), seen


def test_noise_without_lockdown_is_seen_by_every_way() -> None:
    """Each way by which the noise sends is seen on the uplink when nothing stops it."""
    with Lab(None) as lab, Capture(lab) as capture, Noise(lab.appvms["work"].qube) as noise:
        ways = ("udp4", "udp6", "icmp4", "icmp6", "tcp4", "tcp6", "dns", "stream")
        noise.wait(lambda: all(noise.answers[way] > 2 for way in ways))
        noise.rounds()
        seen = capture.result()
        wanted = {f"IPv{version} {protocol}" for version in (4, 6) for protocol in ("TCP", "UDP", "ICMP")}
        assert wanted | {"IPv4 UDP fragment"} <= set(seen.clear_kinds), seen
        assert seen.counts[Kind.CLEAR] > noise.sent["udp4"]


def test_sys_vpns_own_traffic_is_counted_too() -> None:
    """A program in sys-vpn that asks a resolver or the web is a leak as well."""
    with Lab(None, appvms=()) as lab, Capture(lab) as capture:
        assert capture.result().leaks == 0
        lab.vpn.run("ping", "-c", "1", "-W", "1", DNS4)
        assert capture.result().leaks == 4  # there and back, at both ends


def test_multicast_of_sys_vpns_own_is_counted() -> None:
    """Groups of the link and of the site, IPv4 and IPv6, sent by the uplink."""
    with Lab(None, appvms=()) as lab, Capture(lab) as capture:
        assert int(lab.vpn.run(*python("ask.py"), "multicast", UPLINK).stdout) >= 4
        time.sleep(0.1)
        seen = capture.result()
        assert seen.clear_kinds["IPv4 UDP"] >= 2 and seen.clear_kinds["IPv6 UDP"] >= 2, seen


def test_capture_goes_on_when_the_uplink_is_replaced() -> None:
    """eth0 that was taken away and came back is watched by the same capture."""
    with Lab(None, appvms=("work",)) as lab, Capture(lab) as capture:
        lab.remove_uplink()
        assert seen_address(lab.appvms["work"]).startswith("no: ")
        assert capture.result().leaks == 0
        lab.add_uplink()
        assert seen_address(lab.appvms["work"]) == NET4
        assert capture.result().leaks > 10


def test_a_hot_plugged_and_a_pulled_appvm() -> None:
    """AppVMs come and go while the lab is up."""
    with Lab(None, appvms=()) as lab:
        late = lab.attach("late")
        assert seen_address(late) == NET4
        lab.disconnect(late)
        assert seen_address(late).startswith("no: ")
        lab.connect(late)
        assert seen_address(late) == NET4


def test_nothing_is_left_after_an_error() -> None:
    """An exception inside the lab takes it down like a regular end."""
    with pytest.raises(RuntimeError, match="on purpose"), Lab(None) as lab:
        lab.appvms["work"].qube.popen(["sleep", "1000"])
        raise RuntimeError("on purpose")
    assert lab.leftovers() == []


@pytest.mark.parametrize("deadly", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_lab_is_killed(deadly: signal.Signals) -> None:
    """No process survives, not even SIGKILL of the one that built the lab; its folder may, then only."""
    script = (
        "import sys, time\nfrom tests.lab.network import Lab\nfrom tests.lab.signals import ending_signals\n"
        "with ending_signals(), Lab(None) as lab:\n"
        "    print(lab.folder, *[qube.holder.pid for qube in lab.qubes], flush=True)\n    time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    folder, *holders = process.stdout.readline().decode().split()
    assert len(holders) == 7
    namespaces = [os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in holders]
    inodes = {os.fstat(namespace).st_ino for namespace in namespaces}
    os.kill(process.pid, deadly)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 5
    while (left := processes_in(inodes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for namespace in namespaces:
        os.close(namespace)
    assert left == []
    if deadly is signal.SIGKILL:
        Lab.remove_folder(Path(folder))
    assert not Path(folder).exists()
