# SPDX-License-Identifier: BSD-2-Clause
"""Two machines and a cable, made of network namespaces.

    namespace mi<pid>-<n>-s                       namespace mi<pid>-<n>-c
    +------------------------------+              +------------------------------+
    | VPN server                   |     veth     | VPN client                   |
    |   wire0  192.0.2.1/24 -------+--------------+------- wire0  192.0.2.2/24   |
    |          2001:db8::1/64      |              |        2001:db8::2/64        |
    |   vpn0   10.99.0.1/24  ~ ~ ~ | ~ ~ tunnel ~ | ~ ~ ~  vpn0   10.99.0.x/24   |
    +------------------------------+              +------------------------------+
                   |                              namespace mi<pid>-<n>-d, where a test wants it
                   |              veth            +------------------------------+
                   +-- wire1 ---------------------+-- wire0  192.0.2.3/24        |
                                                  +------------------------------+

Neither has a route to anywhere else, and the machine's own network takes no part. Sockets of a test are made by
a thread that has entered the namespace, and are then used like any other.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SERVER_WIRE = "192.0.2.1"
CLIENT_WIRE = "192.0.2.2"
SECOND_CLIENT_WIRE = "192.0.2.3"
THIRD_CLIENT_WIRE6 = "2001:db8:3::2"
SERVER_WIRE6 = "2001:db8::1"
CLIENT_WIRE6 = "2001:db8::2"
SERVER_TUNNEL = "10.99.0.1"
TUN = "vpn0"

ENVIRONMENT = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


def run(*command: str) -> str:
    """Run a system tool to its end; its output, or an error that shows what it said."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip() or ran.stdout.strip()}")
    return ran.stdout


class Namespace:
    """A network namespace of our own, with loopback up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns") / name
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def command(self, *command: str) -> list[str]:
        """`command` as it is started inside; the process started is the program itself."""
        return ["nsenter", f"--net={self.path}", *command]

    def call(self, function: Callable[[], T]) -> T:
        """Call `function` in a thread that has entered the namespace; sockets that it makes stay there."""
        result: list[T] = []
        error: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                descriptor = os.open(self.path, os.O_RDONLY)
                try:
                    if _libc.setns(descriptor, CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), f"setns {self.name}")
                finally:
                    os.close(descriptor)
                result.append(function())
            except BaseException as problem:
                error.append(problem)

        thread = threading.Thread(target=enter_and_call)
        thread.start()
        thread.join()
        if error:
            raise error[0]
        return result[0]

    def address(self, interface: str) -> str | None:
        """The first IPv4 address of `interface`, if it is up and has one."""
        ran = subprocess.run(
            ["ip", "-n", self.name, "-o", "-4", "address", "show", "dev", interface, "up"],
            capture_output=True, text=True, check=False, env=ENVIRONMENT,
        )  # fmt: skip
        words = ran.stdout.split()
        return words[words.index("inet") + 1].split("/")[0] if "inet" in words else None

    def close(self) -> None:
        """Remove the namespace; its interfaces go with it once its processes have ended."""
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False, env=ENVIRONMENT)


class Wire:
    """The namespaces of the drawing."""

    def __init__(self) -> None:
        self._prefix = f"mi{os.getpid()}-{next(_numbers)}"
        self.server = Namespace(f"{self._prefix}-s")
        self.client = Namespace(f"{self._prefix}-c")
        self._second: Namespace | None = None
        self._third: Namespace | None = None
        run("ip", "link", "add", "wire0", "netns", self.server.name, "type", "veth",
            "peer", "name", "wire0", "netns", self.client.name)  # fmt: skip
        for end, address, address6 in (
            (self.server, SERVER_WIRE, SERVER_WIRE6),
            (self.client, CLIENT_WIRE, CLIENT_WIRE6),
        ):
            run("ip", "-n", end.name, "address", "add", f"{address}/24", "dev", "wire0")
            run("ip", "-n", end.name, "address", "add", f"{address6}/64", "dev", "wire0", "nodad")
            run("ip", "-n", end.name, "link", "set", "wire0", "up")

    def second_client(self) -> Namespace:
        """One more client machine; the server answers it from the same address as the first."""
        self._second = Namespace(f"{self._prefix}-d")
        run("ip", "link", "add", "wire1", "netns", self.server.name, "type", "veth",
            "peer", "name", "wire0", "netns", self._second.name)  # fmt: skip
        run("ip", "-n", self._second.name, "address", "add", f"{SECOND_CLIENT_WIRE}/24", "dev", "wire0")
        run("ip", "-n", self._second.name, "link", "set", "wire0", "up")
        run("ip", "-n", self.server.name, "link", "set", "wire1", "up")
        run("ip", "-n", self.server.name, "route", "add", SECOND_CLIENT_WIRE, "dev", "wire1", "src", SERVER_WIRE)
        return self._second

    def third_client(self) -> Namespace:
        """A client machine with IPv6 alone; the server answers it from the same address as the first."""
        self._third = Namespace(f"{self._prefix}-e")
        run("ip", "link", "add", "wire2", "netns", self.server.name, "type", "veth",
            "peer", "name", "wire0", "netns", self._third.name)  # fmt: skip
        for end, link, address in ((self.server, "wire2", "2001:db8:3::1"), (self._third, "wire0", THIRD_CLIENT_WIRE6)):
            run("ip", "-n", end.name, "address", "add", f"{address}/64", "dev", link, "nodad")
            run("ip", "-n", end.name, "link", "set", link, "up")
        run("ip", "-n", self._third.name, "route", "add", SERVER_WIRE6, "via", "2001:db8:3::1")
        return self._third

    def close(self) -> None:
        """Take every namespace down."""
        for space in (self.server, self.client, self._second, self._third):
            if space is not None:
                space.close()
