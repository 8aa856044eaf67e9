# SPDX-License-Identifier: BSD-2-Clause
"""Throughput of the data plane alone: two pumps with fixed keys, back to back.

    namespace A                                        namespace B
    iperf3 -c -- tun 10.77.0.1 -- pump == veth == pump -- tun 10.77.0.2 -- iperf3 -s
                                  192.0.2.1   192.0.2.2

Run as root: ``python tests/bench/pump_loopback.py [--transport tcp] [--cipher AES-128-GCM] [--seconds 5]``.
``--with openvpn`` measures openvpn at both ends over the same veth in the same way (TLS with throw-away certificates).
``--profile`` makes the sending pump print where its time goes. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import json
import os
import pstats
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from qubes_miragevpn.base.secret import Secret  # noqa: E402
from qubes_miragevpn.crypto.suites import SUITES  # noqa: E402
from qubes_miragevpn.dataplane.interface import DataKeys, DirectionKeys, PeerLimits, PlaneEvent  # noqa: E402
from qubes_miragevpn.runtime.pump import Pump  # noqa: E402
from qubes_miragevpn.runtime.sockets.transports import UDP_RCVBUF, UDP_SNDBUF  # noqa: E402
from qubes_miragevpn.runtime.tun import open_tun  # noqa: E402

OUTER = {"a": "192.0.2.1", "b": "192.0.2.2"}
INNER = {"a": "10.77.0.1", "b": "10.77.0.2"}
PORT = 1194
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # linux/socket.h
MSS = 1400


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def namespaces() -> Iterator[dict[str, str]]:
    """Two namespaces joined by a veth, gone afterwards."""
    names = {end: f"pump{os.getpid()}{end}" for end in "ab"}
    try:
        for name in names.values():
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", "veth0", "netns", names["a"], "type", "veth", "peer", "veth0", "netns", names["b"])
        for end, name in names.items():
            run("ip", "-n", name, "address", "add", f"{OUTER[end]}/24", "dev", "veth0")
            run("ip", "-n", name, "link", "set", "veth0", "up")
        yield names
    finally:
        for name in names.values():
            subprocess.run(("ip", "netns", "delete", name), check=False, capture_output=True)


# --- one end, inside its namespace ------------------------------------------------------------------------


def fixed_keys(suite: str, end: str) -> DataKeys:
    size = SUITES[suite].key_size
    ways = [DirectionKeys(Secret(bytes([n]) * size), Secret(bytes([n + 2]) * 8)) for n in (1, 2)]
    send, receive = ways if end == "a" else reversed(ways)
    return DataKeys(suite, send, receive)


def transport_socket(transport: str, end: str) -> socket.socket:
    far = (OUTER["b" if end == "a" else "a"], PORT)
    if transport == "udp":
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((OUTER[end], PORT))
        sock.connect(far)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, UDP_RCVBUF)
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, UDP_SNDBUF)
        return sock
    if end == "b":
        listening = socket.create_server((OUTER["b"], PORT))
        return listening.accept()[0]
    for _ in range(50):
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(far)
        time.sleep(0.1)
    raise SystemExit("the other end does not listen")


async def pump_end(end: str, transport: str, suite: str) -> None:
    tun = open_tun("tun0")
    run("ip", "address", "add", INNER[end], "peer", INNER["b" if end == "a" else "a"], "dev", "tun0")
    run("ip", "link", "set", "tun0", "up", "mtu", "1500", "txqueuelen", "1000")
    sock = transport_socket(transport, end)
    remote = sock.getpeername()
    pump = Pump()

    def report(event: PlaneEvent) -> None:
        print(end, event, file=sys.stderr)

    pump.start(report)
    pump.attach_tun(tun.fd)
    pump.attach_link(1, sock, remote)
    pump.add_peer(1, 1, remote, 7, PeerLimits(ping=10.0, silence=60.0, mss4=MSS, mss6=MSS - 20))
    pump.install_key(1, 0, fixed_keys(suite, end))
    pump.activate_key(1, 0)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    print(end, pump.counters(1), f"dropped_full={pump.dropped_full}", file=sys.stderr)
    pump.close()
    tun.close()


def child(end: str, transport: str, suite: str, profile: bool) -> None:
    profiler = cProfile.Profile() if profile else None
    if profiler is not None:
        profiler.enable()
    asyncio.run(pump_end(end, transport, suite))
    if profiler is not None:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(22)


# --- openvpn in the same place ----------------------------------------------------------------------------


def openvpn_command(end: str, transport: str, suite: str, directory: Path) -> list[str]:
    for name in "ab":
        if not (directory / f"{name}.crt").exists():
            request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            request += ["-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.crt", "-subj", f"/CN={name}"]
            run(*request)
    far = "b" if end == "a" else "a"
    shown = run("openssl", "x509", "-in", f"{directory}/{far}.crt", "-noout", "-fingerprint", "-sha256")
    proto = {"udp": "udp4", "tcp": "tcp4-client" if end == "a" else "tcp4-server"}[transport]
    command = ["openvpn", "--dev", "tun0", "--dev-type", "tun", "--proto", proto, "--local", OUTER[end], "--verb", "1"]
    command += ["--ifconfig", INNER[end], INNER[far], "--disable-dco"]
    command += ["--cert", f"{directory}/{end}.crt", "--key", f"{directory}/{end}.key"]
    command += ["--peer-fingerprint", shown.split("=", 1)[1].strip(), "--data-ciphers", suite]
    command += ["--remote", OUTER[far]] if end == "a" or transport == "udp" else []
    return [*command, *(["--tls-client"] if end == "a" else ["--tls-server", "--dh", "none"])]


# --- the measurement --------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> tuple[float, float]:
    """What the process spent so far, in its own code and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK"), int(fields[12]) / os.sysconf("SC_CLK_TCK")


def wait_for_tunnel(namespace: str) -> None:
    for _ in range(40):
        ping = ("ip", "netns", "exec", namespace, "ping", "-q", "-c", "1", "-W", "1", INNER["b"])
        if subprocess.run(ping, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.25)
    raise SystemExit("the tunnel does not come up")


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Bring both ends up, send with iperf3, return the figures."""
    with namespaces() as names, tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:

        def start(end: str, command: list[str]) -> subprocess.Popen[bytes]:
            quiet = subprocess.DEVNULL if command[0] in ("openvpn", "iperf3") else None
            process = subprocess.Popen(("ip", "netns", "exec", names[end], *command), stdout=quiet, stderr=quiet)

            def stop() -> None:
                process.terminate()
                process.wait(10)

            stack.callback(stop)
            return process

        ends = {}
        for end in "ba":
            if options.implementation == "openvpn":
                command = openvpn_command(end, options.transport, options.cipher, Path(directory))
            else:
                command = [sys.executable, __file__, "--end", end, "--transport", options.transport]
                command += ["--cipher", options.cipher, *(["--profile"] if options.profile else [])]
            ends[end] = start(end, command)
        wait_for_tunnel(names["a"])
        start("b", ["iperf3", "-s"])
        time.sleep(0.5)
        before = {end: cpu_seconds(process.pid) for end, process in ends.items()}
        iperf = ["ip", "netns", "exec", names["a"], "iperf3", "-J", "-c", INNER["b"], "-t", str(options.seconds)]
        report = json.loads(run(*iperf, "-P", str(options.streams)))
        after = {end: cpu_seconds(process.pid) for end, process in ends.items()}
    received = report["end"]["sum_received"]
    gib = received["bytes"] / 2**30
    return {
        "implementation": options.implementation,
        "transport": options.transport,
        "cipher": options.cipher,
        "streams": options.streams,
        "mbit_per_second": round(received["bits_per_second"] / 1e6, 1),
        "retransmits": report["end"]["sum_sent"].get("retransmits"),
    } | {
        f"cpu_{kind}_seconds_per_gib_{role}": round((after[end][n] - before[end][n]) / gib, 2)
        for end, role in (("a", "sending"), ("b", "receiving"))
        for n, kind in enumerate(("user", "system"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="throughput of the data plane alone")
    parser.add_argument("--transport", choices=("udp", "tcp"), default="udp")
    parser.add_argument("--cipher", choices=tuple(SUITES), default="AES-256-GCM")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--with", dest="implementation", choices=("pump", "openvpn"), default="pump")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--end", choices=("a", "b"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.end:
        child(options.end, options.transport, options.cipher, options.profile)
    else:
        print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
