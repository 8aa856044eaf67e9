# SPDX-License-Identifier: BSD-2-Clause
"""A server looked after: its status in the layout of openvpn's own, the management socket, a client sent away."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli.main import main
from tests.interop.conftest import Bench
from tests.interop.netns import SERVER_WIRE
from tests.interop.peers import OPENVPN, OURS, Case, Peer, client_config, server_config

OPERATED = "status status.log 1\nmanagement m unix\n"


SAID = (
    "load-stats", "state", "state all", "state 1", "state on", "state foo", "log", "log foo", "log off", "bytecount 0",
    "bytecount", "hold", "hold on", "hold off", "hold foo", "kill", "kill nobody", "kill 1.2.3.4:5", "client-kill",
    "client-kill x", "client-kill 99", "signal", "signal FOO", "status 4", "version", "nonsense",
)  # fmt: skip
"""What is asked besides the status."""


def ask(path: Path, command: str) -> list[str]:
    """The lines that answer `command`, without those that come by themselves."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        sock.sendall(f"{command}\n".encode())
        lines: list[str] = []
        with sock.makefile("r") as stream:
            while not lines or (lines[-1] != "END" and not lines[-1].startswith(("SUCCESS", "ERROR"))):
                line = stream.readline()
                assert line, f"{command}: no answer after {lines}"
                lines += [line.rstrip()] if not line.startswith(">") else []
    return lines


def shape(line: str) -> str:
    """A line without what differs between two servers: numbers, addresses of the outside, names of programs."""
    if line.startswith(("OpenVPN Version: ", "Management Interface for ")):
        line = re.match(r".*?OpenVPN [0-9.]+ ", line + " ")[0]  # type: ignore[index]
    first = line.split(",")[0].split("\t")[0]
    if first in ("TITLE", "TIME", "Updated"):
        return first
    return re.sub(r"\d+", "0", line)


def told(bench: Bench, kind: str) -> dict[str, list[str]]:
    """What a server of this kind says with one client, as shapes by format."""
    server = bench.server(kind, server_config(Case(), bench.pki, kind) + OPERATED + f"local {SERVER_WIRE}\n")
    client = bench.client(OPENVPN, client_config(Case(), bench.pki, OPENVPN))
    client.wait_up()
    bench.exchange(10_000)
    answers = {f"status {n}": [shape(line) for line in ask(bench.folder / "m", f"status {n}")] for n in (1, 2, 3)}
    answers |= {command: [shape(line) for line in ask(bench.folder / "m", command)] for command in SAID}
    answers["help"] = [shape(line) for line in ask(bench.folder / "m", "help")][:2]
    server.wait("status file", lambda: "qube-one" in (bench.folder / "status.log").read_text())
    answers["file"] = [shape(line) for line in (bench.folder / "status.log").read_text().splitlines()]
    answers["kill"] = ask(bench.folder / "m", "kill qube-one")
    for peer in (client, server):
        peer.stop()
    return answers


def test_status_has_the_layout_of_openvpn(bench: Bench) -> None:
    assert told(bench, OURS) == told(bench, OPENVPN)


def test_clients_and_metrics(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    text = server_config(Case(), bench.pki, OURS) + OPERATED + "metrics metrics.prom 1\nmanagement-hold\n"
    server = Peer("server", OURS, "server", bench.wire.server, text, bench.folder)
    bench.peers.append(server)
    server.wait("socket", lambda: (bench.folder / "m").exists())
    assert ask(bench.folder / "m", "hold release") == ["SUCCESS: hold release succeeded"]
    server.wait_up()
    bench.client(OURS, client_config(Case(), bench.pki, OURS)).wait_up()
    bench.exchange(10_000)
    assert main(["clients", str(bench.folder / "m")]) == ExitCode.OK
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "1 clients" and re.match(r"qube-one +192\.0\.2\.2:\d+ +10\.99\.0\.2 ", shown[2])
    metrics = bench.folder / "metrics.prom"
    server.wait("metrics", lambda: metrics.exists() and 'name="qube-one"' in metrics.read_text())
    assert ask(bench.folder / "m", "signal SIGTERM") == ["SUCCESS: signal SIGTERM thrown"]
    assert server.wait_exit() == 0 and not (bench.folder / "m").exists()
    assert main(["clients", str(bench.folder / "m")]) == ExitCode.SYSTEM
