# SPDX-License-Identifier: BSD-2-Clause
"""The handbook's page on a private server, its blocks run as written on the two machines of the wire.

    server's machine 192.0.2.1 -- wire -- 192.0.2.2 client's machine, whose files of /etc and /run are its own
    198.51.100.7 on its loopback: something that only the tunnel leads to
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import Bench
from tests.interop.netns import ENVIRONMENT, Namespace, run
from tests.interop.peers import REPOSITORY
from tests.unit.handbook import blocks

PAGE = "server.md"
BEYOND = "198.51.100.7"
OWN_FILES = "mount -t tmpfs none /run && mount --bind resolv.conf /etc/resolv.conf"
"""Of the machine's files, those that the client would write."""


def text(*words: str, number: int = 0) -> str:
    """The block of that place and name, or the one of that number where several bear it."""
    return [block.text for block in blocks(PAGE) if block.words == words][number]


class Machines:
    """A home folder and a `miragevpn` on the PATH for each."""

    def __init__(self, bench: Bench) -> None:
        self.server, self.client = bench.wire.server, bench.wire.client
        self._folder = bench.folder
        self._started: list[subprocess.Popen[bytes]] = []
        for name in ("bin", "server", "client"):
            (self._folder / name).mkdir()
        program = self._folder / "bin" / "miragevpn"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qubes_miragevpn "$@"\n')
        program.chmod(0o755)
        path = f"{self._folder / 'bin'}:{ENVIRONMENT['PATH']}"
        self._environment = {**ENVIRONMENT, "PATH": path, "PYTHONPATH": str(REPOSITORY)}

    def home(self, space: Namespace) -> Path:
        return self._folder / ("server" if space is self.server else "client")

    def type(self, space: Namespace, lines: str) -> str:
        """Run a block to its end, stopping at the first line that fails; what it printed."""
        done = subprocess.run(
            space.command("bash", "-euc", lines), cwd=self.home(space), env=self._environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, space: Namespace, line: str) -> tuple[subprocess.Popen[bytes], Callable[[], str]]:
        """Run a line that goes on until Ctrl-C; the process and its log."""
        log = self.home(space) / "log"
        before = f"{OWN_FILES} && " if space is self.client else ""
        with log.open("wb") as output:
            process = subprocess.Popen(
                space.command("unshare", "--mount", "bash", "-ec", f"{before}exec {line.strip()}"),
                cwd=self.home(space), env=self._environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._started.append(process)
        return process, lambda: log.read_text(errors="replace")

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def machines(bench: Bench) -> Iterator[Machines]:
    made = Machines(bench)
    yield made
    made.close()


def until(condition: Callable[[], bool], what: Callable[[], str], within: float = 25) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def routes(space: Namespace) -> str:
    return run("ip", "-n", space.name, "route", "show", "table", "all")


def test_the_page_as_written(machines: Machines) -> None:
    """Make it, serve, connect, be seen, reach what only the tunnel leads to, revoke, and leave everything as it was."""
    server, client = machines.server, machines.client
    run("ip", "-n", server.name, "address", "add", f"{BEYOND}/32", "dev", "lo")
    run("ip", "-n", server.name, "route", "add", "default", "dev", "wire0")
    assert "laptop" in machines.type(server, text("server"))
    # The example's socket is in /run, which here is everybody's: one of the test's own instead.
    socket = str(machines.home(server) / "vpn.sock")
    serving, served = machines.start(server, text("server", "serve").replace("/run/vpn.sock", socket))
    until(lambda: Path(socket).exists(), served)

    shutil.move(machines.home(server) / "laptop.ovpn", machines.home(client))
    (machines.home(client) / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    # The kernel makes the interface's own link-local routes in its own time: after the address has been tried.
    until(lambda: "local fe80::" in routes(client) and "tentative" not in run("ip", "-n", client.name, "address"), str)
    before = routes(client)
    connected, said = machines.start(client, text("linux", "connect"))
    until(lambda: client.address("tun0") is not None and "0.0.0.0/1" in run("ip", "-n", client.name, "route"), said)
    shown = text("server", "root-while-serving").replace("/run/vpn.sock", socket)
    until(lambda: "laptop" in machines.type(server, shown), served)
    assert (machines.home(client) / "resolv.conf").read_text().count("nameserver 9.9.9.9") == 1
    assert "1 received" in machines.type(client, f"ping -c 1 -W 5 {BEYOND}")

    assert "phone" in machines.type(server, text("server", number=1))
    revoked = [line for line in machines.type(server, "miragevpn pki list vpn").splitlines() if "revoked" in line]
    assert [line.split()[0] for line in revoked] == ["phone"]
    for process, log in ((connected, said), (serving, served)):
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == os.EX_OK, log()
    assert routes(client) == before
    assert (machines.home(client) / "resolv.conf").read_text() == "nameserver 192.0.2.1\n"
