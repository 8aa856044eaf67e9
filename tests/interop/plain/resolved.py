# SPDX-License-Identifier: BSD-2-Clause
"""A real systemd-resolved on a bus of its own; what it is told, and what it then says, as JSON.

    unshare --net --mount python -m tests.interop.plain.resolved FOLDER PROGRAM RESOLVECTL

Runs inside namespaces of its own, so that neither the machine's resolver nor its files are touched: /run/systemd is an
empty file system, and users are looked up in a copy that holds the one that the service wants to be.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import subprocess
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path

from qubes_miragevpn.config.model import Dns
from qubes_miragevpn.runtime.plain.resolved import Resolved
from tests.unit.runtime.test_naming import BUS_CONFIG

USER = "systemd-resolve"
BUS = Path("/run/systemd/bus")  # the service, which is another user, must reach it
SERVERS = (IPv4Address("10.8.0.1"),)
STEPS = {
    "whole": Dns(SERVERS, ("corp.example",), ("x.example",), 5353, "no", True, "dns.example"),
    "plain": Dns(SERVERS, ("corp.example",)),
}


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def prepare(folder: Path) -> None:
    """The files and the interface that the service finds."""
    run("mount", "--make-rprivate", "/")
    if USER not in {each.pw_name for each in pwd.getpwall()}:
        for name, line in (("passwd", f"{USER}:x:4243:4243::/:/bin/false\n"), ("group", f"{USER}:x:4243:\n")):
            (folder / name).write_text(Path("/etc", name).read_text(encoding="utf-8") + line, encoding="utf-8")
            run("mount", "--bind", str(folder / name), f"/etc/{name}")
    run("mount", "-t", "tmpfs", "none", "/run/systemd")
    place = Path("/run/systemd/resolve")
    place.mkdir()
    user = pwd.getpwnam(USER)
    os.chown(place, user.pw_uid, user.pw_gid)
    (folder / "bus.conf").write_text(BUS_CONFIG.format(socket=BUS), encoding="ascii")
    for command in ("link set lo up", "link add near type veth peer name far", "addr add 10.8.0.2/24 dev near",
                    "link set near up", "link set far up"):  # fmt: skip
        run("ip", *command.split())


async def ask(resolvectl: str) -> dict[str, str]:
    """Tell the service each of `STEPS`; what it says of the interface after each, and after the end."""
    index = socket.if_nametoindex("near")
    said = {}
    deadline = time.monotonic() + 10
    while (found := await Resolved.find()) is None:
        if time.monotonic() > deadline:
            raise RuntimeError("the service does not appear on the bus")
        await asyncio.sleep(0.05)
    for name, dns in STEPS.items():
        await found.set(index, dns, everything=True)
        said[name] = run(resolvectl, "status", "near")
    await found.unset(index)
    said["after"] = run(resolvectl, "status", "near")
    found.close()
    return said


def main(folder: Path, program: str, resolvectl: str) -> None:
    """Run it all; the answer goes to standard output."""
    prepare(folder)
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={BUS}"
    with (folder / "log").open("wb") as log:
        bus = subprocess.Popen(
            ["dbus-daemon", f"--config-file={folder / 'bus.conf'}", "--nofork"], stdout=log, stderr=log
        )
        while not BUS.exists() and bus.poll() is None:
            time.sleep(0.01)
        service = subprocess.Popen([program], stdout=log, stderr=log)
        try:
            print(json.dumps(asyncio.run(ask(resolvectl))))
        finally:
            for process in (service, bus):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
