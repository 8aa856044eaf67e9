# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn client` and `miragevpn server` as a person runs them: signals, exit codes, nothing left behind.

    [server]  10.0.0.1 ====veth==== 10.0.0.2  [client]     tunnel 10.8.0.1 -- 10.8.0.2
                                              default via 10.0.0.1
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.cli.foreground import totals
from qubes_miragevpn.dataplane.interface import Counters
from qubes_miragevpn.runtime.plain.privilege import demand_net_admin
from tests.interop.pki import Authority

ROOT = Path(__file__).parents[3]
SERVER_CONFIG = """
mode server
tls-server
topology subnet
dev tun
server 10.8.0.0 255.255.255.0
dh none
proto {proto}
keepalive 10 60
push "redirect-gateway def1"
setenv opt allow-plain-tls
"""
CLIENT_CONFIG = """
client
dev tun
nobind
remote 10.0.0.1 1194
proto {proto}
remote-cert-tls server
"""


class Running:
    """A command in a namespace, and what it logs."""

    def __init__(self, namespace: str, *words: str) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "qubes_miragevpn", *words]
        # a group of its own: a signal for the test runner is not for it
        self._process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self.seen: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.put(line.rstrip())
        self._lines.put("(end)")

    def until(self, text: str) -> None:
        """Wait for a log line that holds `text`."""
        while not self.seen or text not in self.seen[-1]:
            assert not self.seen or self.seen[-1] != "(end)", "\n".join(self.seen)
            self.seen.append(self._lines.get(timeout=15))

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """The exit code, once it has ended."""
        self.until("(end)")
        assert not any("Traceback" in line for line in self.seen), "\n".join(self.seen)
        return self._process.wait(timeout=15)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Net:
    """Two namespaces and what runs in them."""

    def __init__(self, folder: Path) -> None:
        self.names = {role: f"mvfg{os.getpid()}{role[0]}" for role in ("server", "client")}
        self._folder = folder
        self._running: list[Running] = []
        authority = Authority("test authority")
        self._credentials = {
            role: (authority.certificate, authority.issue(role, role)) for role in ("server", "client")
        }

    def start(self, role: str, text: str) -> Running:
        ca, own = self._credentials[role]
        inline = f"<ca>\n{ca}</ca>\n<cert>\n{own.certificate}</cert>\n<key>\n{own.key}</key>\n"
        file = self._folder / f"{role}.conf"
        file.write_text(text + inline)
        running = Running(self.names[role], role, str(file))
        self._running.append(running)
        return running

    def ip(self, role: str, command: str) -> str:
        return ip(f"-n {self.names[role]} {command}")

    def picture(self) -> str:
        shown = ["-o link", "-o addr", "route show table all", "-6 route show table all"]
        lines = [line for command in shown for line in self.ip("client", command).splitlines()]
        return "\n".join(sorted(line for line in lines if not line.startswith("multicast")))

    def close(self) -> None:
        for running in self._running:
            running.kill()
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def ip(command: str) -> str:
    return subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    made = Net(tmp_path)
    try:
        server, client = made.names.values()
        for name in (server, client):
            ip(f"netns add {name}")
        ip(f"-n {server} link add far type veth peer name near netns {client}")
        for role, dev, address in (("server", "far", "10.0.0.1/24"), ("client", "near", "10.0.0.2/24")):
            for command in ("link set lo up", f"link set {dev} addrgenmode none", f"addr add {address} dev {dev}"):
                made.ip(role, command)
            made.ip(role, f"link set {dev} up")
        made.ip("client", "route add default via 10.0.0.1")
        while "state UP" not in made.ip("client", "link show near"):  # carrier is told a moment later
            pass
        yield made
    finally:
        made.close()


@pytest.mark.needs_root
@pytest.mark.needs_tun
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_connect_reconnect_and_leave_without_a_trace(net: Net, proto: str) -> None:
    before = net.picture()
    server = net.start("server", SERVER_CONFIG.format(proto=proto))
    server.until("listening on")
    client = net.start("client", CLIENT_CONFIG.format(proto=proto))
    client.until("tunnel up: 10.8.0.2/24")
    assert "0.0.0.0/1 dev tun0" in net.ip("client", "route")
    ping = ["ip", "netns", "exec", net.names["client"], "ping", "-c", "1", "-W", "5", "10.8.0.1"]
    assert subprocess.run(ping, capture_output=True, check=False).returncode == 0

    client.signal(signal.SIGUSR1)
    client.until("tunnel down:")
    client.until("tunnel up: 10.8.0.")
    server.signal(signal.SIGUSR2)
    server.until("1 clients")
    client.signal(signal.SIGUSR2)
    client.until("received ")

    client.signal(signal.SIGINT)
    assert client.end() == 0
    assert "received 84 bytes" in client.seen[-2]
    assert net.picture() == before
    server.signal(signal.SIGTERM)
    assert server.end() == 0
    assert "tun" not in net.ip("server", "-o link")


@pytest.mark.needs_root
@pytest.mark.needs_tun
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_attempt_to_connect(net: Net, number: signal.Signals) -> None:
    before = net.picture()
    client = net.start("client", CLIENT_CONFIG.format(proto="udp"))
    client.until("connecting to 10.0.0.1")
    client.signal(number)
    assert client.end() == 0
    assert net.picture() == before


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_a_server_reads_its_configuration_again(net: Net, tmp_path: Path) -> None:
    """Nobody is dropped: what may change does, what may not is named, and a mistake changes nothing."""
    text = SERVER_CONFIG.format(proto="udp") + "status status.log 1\n"
    server = net.start("server", text)
    server.until("listening on")
    client = net.start("client", CLIENT_CONFIG.format(proto="udp"))
    client.until("tunnel up: 10.8.0.2/24")
    file = tmp_path / "server.conf"
    whole = file.read_text()

    file.write_text(whole.replace("keepalive 10 60", "keepalive 10 x"))
    server.signal(signal.SIGHUP)
    server.until("not read again, everything stays as it was: ")
    assert f"{file}:9: " in server.seen[-1]

    file.write_text(whole.replace("keepalive 10 60", "keepalive 10 70\nmax-clients 7").replace("10.8.0.0", "10.9.0.0"))
    server.signal(signal.SIGHUP)
    server.until("configuration read again: ")
    assert "max-clients" in server.seen[-1] and "keepalive" in server.seen[-1] and "push" in server.seen[-1]
    server.until("take a new start")
    assert server.seen[-1].endswith(": server")

    ping = ["ip", "netns", "exec", net.names["client"], "ping", "-c", "1", "-W", "5", "10.8.0.1"]
    assert subprocess.run(ping, capture_output=True, check=False).returncode == 0
    client.signal(signal.SIGINT)
    assert client.end() == 0 and not any("tunnel down: the server" in line for line in client.seen)
    server.signal(signal.SIGTERM)
    assert server.end() == 0


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_a_server_that_is_not_there(net: Net) -> None:
    client = net.start("client", CLIENT_CONFIG.format(proto="tcp") + "connect-retry-max 1\n")
    assert client.end() == 5
    assert "Connection refused" in "\n".join(client.seen)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_a_port_that_is_taken(net: Net) -> None:
    first = net.start("server", SERVER_CONFIG.format(proto="udp"))
    first.until("listening on")
    second = net.start("server", SERVER_CONFIG.format(proto="udp"))
    assert second.end() == 4
    assert "another program uses it" in second.seen[-2]


def test_privilege_is_demanded_with_a_remedy(tmp_path: Path) -> None:
    status, device = tmp_path / "status", tmp_path / "tun"
    status.write_text("Name:\tx\nCapEff:\t0000000000001000\n")
    with pytest.raises(SystemRefused, match="modprobe"):
        demand_net_admin(status, device)
    device.touch()
    demand_net_admin(status, device)
    status.write_text("Name:\tx\nCapEff:\t0000000000000fff\n")
    with pytest.raises(SystemRefused, match="sudo"):
        demand_net_admin(status, device)


def test_totals_are_for_people() -> None:
    assert totals(Counters(bytes_in=10, bytes_out=5 << 20)) == "received 10 bytes, sent 5.0 MiB"
    assert totals(Counters(bytes_in=3 << 41, dropped_auth=2)) == "received 6.0 TiB, sent 0 bytes, dropped 2 packets"
