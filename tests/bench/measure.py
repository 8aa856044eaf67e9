# SPDX-License-Identifier: BSD-2-Clause
"""The measurements. Each returns `{metric: value}`; the metrics and their units are in `METRICS`."""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import packets
from tests.bench.relay import DelayingRelay
from tests.bench.tunnel import Ends, Tunnel, resident, start_client, start_server, workspace
from tests.interop.netns import ENVIRONMENT, SERVER_TUNNEL, SERVER_WIRE, TUN, Namespace, run
from tests.interop.peers import OPENVPN, PORT, REPOSITORY, Case, PeerFailed
from tests.interop.pki import Pki

GIB = 1 << 30
RELAY_PORT = PORT + 1
FIRST_PACKET_WITHIN = 30.0

METRICS = {
    "one stream up": "Mbit/s",
    "one stream down": "Mbit/s",
    "four streams up": "Mbit/s",
    "four streams down": "Mbit/s",
    "CPU per GiB up, both ends": "s/GiB",
    "CPU per GiB up, client": "s/GiB",
    "CPU per GiB up, server": "s/GiB",
    "CPU per GiB down, both ends": "s/GiB",
    "CPU per GiB down, client": "s/GiB",
    "CPU per GiB down, server": "s/GiB",
    "200-byte packets up": "packets/s",
    "200-byte packets down": "packets/s",
    "added round trip, idle": "ms",
    "added round trip, loaded": "ms",
    "start to first packet": "ms",
    "start to first packet, round trips": "",
    "memory of the client": "MiB",
    "memory of the server": "MiB",
    "start-up of the command": "ms",
}
"""Every metric with its unit, in the order of the table."""

STARTING = {"start to first packet", "start to first packet, round trips", "start-up of the command"}
"""What is measured before a tunnel is there, and does not depend on whose packets it carries."""

Values = dict[str, float]


# --- throughput -----------------------------------------------------------------------------------------


@contextmanager
def _iperf_server(space: Namespace, address: str = SERVER_TUNNEL) -> Iterator[None]:
    server = subprocess.Popen(
        space.command("iperf3", "-s", "-B", address),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 5
        while not _listens(space):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("iperf3 -s does not listen")
            time.sleep(0.02)
        yield
    finally:
        server.kill()
        server.wait()


def _listens(space: Namespace) -> bool:
    ran = subprocess.run(space.command("ss", "-ltnH", "sport = 5201"), capture_output=True, check=True, env=ENVIRONMENT)
    return bool(ran.stdout.strip())


def _stream(space: Namespace, to: str, seconds: float, *options: str) -> dict[str, dict[str, float]]:
    """One iperf3 run from `space`; the `end` object of its report."""
    command = ["iperf3", "-c", to, "-J", "-t", f"{max(1, round(seconds))}", *options]
    problem = ""
    for _ in range(3):  # right after a run iperf3's server may not take the next one yet
        try:
            ran = subprocess.run(
                space.command(*command),
                capture_output=True, check=False, env=ENVIRONMENT, timeout=seconds + 30,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{' '.join(command)}: did not end") from None
        report = json.loads(ran.stdout or b"{}")
        end: dict[str, dict[str, float]] = report.get("end", {})
        if ran.returncode == 0 and "sum_received" in end:
            return end
        problem = report.get("error", ran.stderr.decode(errors="replace"))
        time.sleep(0.5)
    raise RuntimeError(f"{' '.join(command)}: {problem}")


def throughput(tunnel: Tunnel, seconds: float) -> Values:
    """TCP streams each way, with the CPU that the VPN processes took for one."""
    values: Values = {}
    with _iperf_server(tunnel.wire.server):
        for way, options in (("up", ()), ("down", ("-R",))):
            before = tunnel.cpu_seconds()
            one = _stream(tunnel.near, SERVER_TUNNEL, seconds, *options)["sum_received"]
            client, server = (now - then for now, then in zip(tunnel.cpu_seconds(), before, strict=True))
            values[f"one stream {way}"] = one["bits_per_second"] / 1e6
            for who, used in (("both ends", client + server), ("client", client), ("server", server)):
                values[f"CPU per GiB {way}, {who}"] = used / (one["bytes"] / GIB)
            four = _stream(tunnel.near, SERVER_TUNNEL, seconds, "-P", "4", *options)["sum_received"]
            values[f"four streams {way}"] = four["bits_per_second"] / 1e6
    return values


# --- small packets --------------------------------------------------------------------------------------


def small_packets(tunnel: Tunnel, seconds: float) -> Values:
    """200-byte datagrams a second that come out of the other end's TUN while the sender sends all it can."""
    values = {"200-byte packets up": _packets_per_second(tunnel.near, tunnel.wire.server, SERVER_TUNNEL, seconds)}
    if tunnel.near is tunnel.wire.client:  # nobody can send to what is behind a masquerade
        address = tunnel.client.wait_up()
        values["200-byte packets down"] = _packets_per_second(tunnel.wire.server, tunnel.near, address, seconds)
    return values


def _packets_per_second(sender: Namespace, receiver: Namespace, to: str, seconds: float) -> float:
    # A bound socket that nobody reads: what arrives is dropped, not answered by ICMP.
    sink = receiver.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sink:
        sink.bind((to, packets.PORT))
        flood = subprocess.Popen(
            sender.command(sys.executable, "-m", "tests.bench.packets", to, str(seconds + 1.0)), cwd=REPOSITORY
        )
        time.sleep(0.5)
        before, begin = _received(receiver), time.monotonic()
        time.sleep(seconds)
        after, took = _received(receiver), time.monotonic() - begin
        flood.wait()
    # In bytes: a TUN counts what it is given in one piece as one packet.
    return (after - before) / (packets.SIZE + 28) / took


def _received(space: Namespace) -> int:
    shown = json.loads(run("ip", "-n", space.name, "-s", "-j", "link", "show", TUN))
    count: int = shown[0]["stats64"]["rx"]["bytes"]
    return count


# --- round trips ----------------------------------------------------------------------------------------


def _ping(space: Namespace, address: str, count: int) -> float:
    """Median round trip in ms."""
    ran = subprocess.run(
        space.command("ping", "-n", "-i", "0.01", "-c", str(count), "-W", "2", address),
        capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60,
    )  # fmt: skip
    times = [float(value) for value in re.findall(r"time=([\d.]+) ms", ran.stdout)]
    if not times:
        raise RuntimeError(f"no answer to ping from {address}")
    return statistics.median(times)


def round_trips(tunnel: Tunnel, seconds: float) -> Values:
    """What the tunnel adds to the cable's round trip, with nothing else on it and beside one TCP stream."""
    count = max(10, int(seconds * 50))
    wire = _ping(tunnel.wire.client, SERVER_WIRE, count)
    idle = _ping(tunnel.near, SERVER_TUNNEL, count)
    with _iperf_server(tunnel.wire.server):
        stream = threading.Thread(target=lambda: _stream(tunnel.near, SERVER_TUNNEL, seconds + 1))
        stream.start()
        time.sleep(0.3)
        loaded = _ping(tunnel.near, SERVER_TUNNEL, count)
        stream.join()
    return {"added round trip, idle": idle - wire, "added round trip, loaded": loaded - wire}


def memory(tunnel: Tunnel) -> Values:
    """Resident memory after the load."""
    return {"memory of the client": resident(tunnel.client), "memory of the server": resident(tunnel.server)}


# --- start ----------------------------------------------------------------------------------------------


def _echo(sock: socket.socket) -> None:
    try:
        while True:
            data, sender = sock.recvfrom(64)
            sock.sendto(data, sender)
    except OSError:
        return  # closed


def first_packet(ends: Ends, case: Case, pki: Pki, delay: float = 0.0) -> tuple[float, float]:
    """Seconds until the first datagram through the tunnel is answered: (since the start, since the first packet out).

    A UDP transport goes through a relay that keeps every datagram for `delay` each way; for TCP there is none,
    and the second number is 0.
    """
    with workspace() as (wire, folder):
        server = start_server(wire, folder, ends, case, pki)
        relay = None
        if case.proto == "udp":
            relay = DelayingRelay(wire.server, (SERVER_WIRE, RELAY_PORT), ("127.0.0.1", PORT), delay)
        echo = wire.server.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        echo.bind((SERVER_TUNNEL, 7))
        threading.Thread(target=_echo, args=(echo,), daemon=True).start()
        start = time.monotonic()
        client = start_client(wire, folder, ends, case, pki, RELAY_PORT if relay else PORT)
        try:
            answered = _until_answer(wire.client, start, client.log_file)
            return answered - start, answered - relay.first_datagram if relay else 0.0
        finally:
            client.kill()
            server.kill()
            echo.close()
            if relay:
                relay.close()


def _until_answer(space: Namespace, start: float, log: Path) -> float:
    with space.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.settimeout(0.002)
        while time.monotonic() - start < FIRST_PACKET_WITHIN:
            try:
                probe.sendto(b"?", (SERVER_TUNNEL, 7))
                probe.recv(64)
                return time.monotonic()
            except TimeoutError:
                continue
            except OSError:
                time.sleep(0.001)  # no route yet
    raise PeerFailed(f"no packet within {FIRST_PACKET_WITHIN:g} s\n{log.read_text(errors='replace')}")


def start(ends: Ends, case: Case, pki: Pki, delay: float) -> Values:
    """Time from start to first packet; over UDP also in round trips of a cable with `delay` each way."""
    since_start, near = first_packet(ends, case, pki)
    values = {"start to first packet": since_start * 1000}
    if case.proto == "udp":
        _, far = first_packet(ends, case, pki, delay)
        # Counted from the client's first packet, so that the program's own start is not in it; the answered packet's
        # way there and back is one of them.
        values["start to first packet, round trips"] = (far - near) / (2 * delay)
    return values


def command_start(kind: str) -> Values:
    """How long the program takes to say its version."""
    ours = [sys.executable, "-m", "qubes_miragevpn", "--version"]
    command = ["openvpn", "--version"] if kind == OPENVPN else ours
    before = time.monotonic()
    ran = subprocess.run(command, capture_output=True, check=False, cwd=REPOSITORY, env=ENVIRONMENT)
    took = time.monotonic() - before
    if not ran.stdout:
        raise RuntimeError(f"{' '.join(command)} said nothing")
    return {"start-up of the command": took * 1000}


# --- what nothing can exceed ----------------------------------------------------------------------------


def limits(seconds: float) -> dict[str, tuple[float, str]]:
    """What the wire carries without a tunnel (one TCP stream), and what one core seals with AES-256-GCM."""
    with workspace() as (wire, _), _iperf_server(wire.server, SERVER_WIRE):
        bare = _stream(wire.client, SERVER_WIRE, seconds)["sum_received"]["bits_per_second"] / 1e6
    ran = subprocess.run(
        ["openssl", "speed", "-mr", "-seconds", "1", "-bytes", "1400", "-evp", "aes-256-gcm"],
        capture_output=True, text=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    # +F:NUMBER:NAME:bytes a second
    sealed = float(next(line for line in ran.stdout.splitlines() if line.startswith("+F:")).split(":")[3])
    return {
        "the wire alone, one TCP stream": (bare, "Mbit/s"),
        "AES-256-GCM on one core, 1400 bytes": (sealed * 8 / 1e6, "Mbit/s"),
    }
