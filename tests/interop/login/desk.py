# SPDX-License-Identifier: BSD-2-Clause
"""openvpn's management interface as the one that decides about logins, and a person at our client's terminal."""

from __future__ import annotations

import os
import pty
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, OURS, UP_WITHIN, Case, Peer, client_config, server_config

LINES = ("script-security 2", "auth-user-pass-optional")


@dataclass(frozen=True)
class Visit:
    """A login that waits for its judgement."""

    event: str  # CONNECT, REAUTH, CR_RESPONSE
    client: str
    key: str
    username: str
    password: str
    rest: str


class Management:
    """The management end, at `path`, of an openvpn server that runs."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(UP_WITHIN)
        self._socket.connect(str(path))
        self._heard = b""

    def visit(self) -> Visit:
        """Wait for the next login, or the next answer to a question."""
        environment: dict[str, str] = {}
        head: re.Match[str] | None = None
        while True:
            line = self._line()
            if line == ">CLIENT:ENV,END" and head is not None:
                name, password = (environment.get(key, "") for key in ("username", "password"))
                return Visit(head[1], head[2], head[3], name, password, head[4])
            if found := re.match(r">CLIENT:(CONNECT|REAUTH|CR_RESPONSE),(\d+),(\d+),?(.*)", line):
                head = found
                environment.clear()
            elif line.startswith(">CLIENT:ENV,"):
                key, _, value = line.removeprefix(">CLIENT:ENV,").partition("=")
                environment[key] = value

    def say(self, command: str) -> None:
        """Give a command."""
        self._socket.sendall(command.encode() + b"\n")

    def accept(self, visit: Visit) -> None:
        self.say(f"client-auth-nt {visit.client} {visit.key}")

    def deny(self, visit: Visit, reason: str) -> None:
        self.say(f'client-deny {visit.client} {visit.key} "desk" "{reason}"')

    def _line(self) -> str:
        while b"\n" not in self._heard:
            data = self._socket.recv(65536)
            assert data, "openvpn closed its management interface"
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")

    def close(self) -> None:
        self._socket.close()


class Desk(Management):
    """An openvpn server and its management end."""

    def __init__(self, bench: Bench, case: Case, *lines: str) -> None:
        path = bench.folder / "desk"
        extra = (f"management {path} unix", "management-client-auth", *lines)
        self.server = bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN) + "\n".join(extra) + "\n")
        super().__init__(path)


class Person:
    """Somebody at the terminal of our client, who sees what stands there and types."""

    @classmethod
    def of(cls, bench: Bench, case: Case, *lines: str) -> Person:
        """Whose client has the configuration of `case`, and `lines`."""
        return cls(bench, client_config(case, bench.pki, OURS) + "\n".join(lines) + "\n")

    def __init__(self, bench: Bench, config: str) -> None:
        self._terminal, inner = pty.openpty()
        self.client = Peer("ours-client", OURS, "client", bench.wire.client, config, bench.folder, stdin=inner)
        bench.peers.append(self.client)
        os.close(inner)

    def type(self, prompt: str, text: str) -> None:
        """Wait for `prompt`, then type a line."""
        before = len(re.findall(prompt, self.client.log))
        if not before:
            self.client.wait_log(prompt)
        time.sleep(0.2)  # the prompt is written before the terminal is read
        os.write(self._terminal, text.encode() + b"\n")

    def close(self) -> None:
        os.close(self._terminal)


def login_file(folder: Path, password: str = "right") -> str:
    """The line that logs in as ada from a file."""
    path = folder / "login"
    path.write_text(f"ada\n{password}\n", encoding="ascii")
    path.chmod(0o600)
    return f"auth-user-pass {path}"
