# SPDX-License-Identifier: BSD-2-Clause
"""The commands of a newcomer: ``make demo`` and ``make lab``, after set-up."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

from tests.lab.providers import OPENVPN, OWN
from tests.lab.qube import REPOSITORY

DEMO = (sys.executable, "-m", "tests.lab.demo")


@pytest.mark.parametrize("provider", [OWN, OPENVPN])
def test_the_demo(provider: str) -> None:
    """Every check holds, in a bounded time, and nothing clear was seen."""
    begin = time.monotonic()
    done = subprocess.run([*DEMO, "--provider", provider], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clear packets seen: 0\n" in done.stdout
    assert "FAILED" not in done.stdout and done.stderr == ""
    assert time.monotonic() - begin < 180


@pytest.mark.parametrize(
    ("deadly", "when"), [(signal.SIGINT, "the tunnel comes up"), (signal.SIGTERM, "the providers start")]
)
def test_the_demo_interrupted(deadly: signal.Signals, when: str) -> None:
    """Ctrl-C in the middle takes everything down."""
    process = subprocess.Popen(DEMO, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if when in line:
            process.send_signal(deadly)
            break
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(10) == 130, rest
    assert "Traceback" not in rest


def test_the_lab_stays_until_told() -> None:
    """It says how to enter each qube, the service is started again when it dies, and Ctrl-C ends it."""
    process = subprocess.Popen(
        [*DEMO, "--stay"], cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    shown, tried = "", list[subprocess.CompletedProcess[str]]()
    killed = False
    for line in process.stdout:
        shown += line
        if found := re.search(r"^  (?:in work:)? +(python3 .*ask\.py .*)$", line):
            (work,) = re.findall(r"^  work +(nsenter .*)$", shown, re.MULTILINE)
            tried.append(subprocess.run(f"{work} {found[1]}", shell=True, capture_output=True, text=True))
        if (found := re.search(r"kill -9 (\d+)", line)) and not killed:
            killed = True
            subprocess.run(["kill", "-9", found[1]], check=True)
        if "as systemd would" in line:
            break
    entries = dict(re.findall(r"^  (\S+) +nsenter -t (\d+)", shown, re.MULTILINE))
    assert {"work", "personal", "sys-vpn", "sys-net"} <= set(entries), shown
    inside = subprocess.run(
        ["nsenter", "-t", entries["sys-vpn"], "-n", "-m", "-u", "--", "hostname"], capture_output=True, check=True
    )
    assert inside.stdout == b"sys-vpn\n"
    # As it is told, to the letter; 1 would be a machine too busy for an answer in time, 2 a program that is not there.
    assert len(tried) == 2 and all(one.returncode in (0, 1) and "can't open" not in one.stderr for one in tried), tried
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(10) == 0, rest
    assert "clear packets seen: 0" in rest and "everything is taken down" in rest
