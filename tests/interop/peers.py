# SPDX-License-Identifier: BSD-2-Clause
"""The programs under test: what is written into their configurations, and how they are run.

A `Case` says what a test is about; `server_config` and `client_config` turn it into OpenVPN's language, the same text
for both implementations but for what only one of them knows. Everything is inline, as in the profiles people get.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.interop.netns import ENVIRONMENT, SERVER_WIRE, SERVER_WIRE6, TUN, Namespace
from tests.interop.pki import SERVER_NAME, Pem, Pki

REPOSITORY = Path(__file__).parents[2]
PORT = 1194
OPENVPN = "openvpn"
OURS = "ours"
UP_WITHIN = 60.0
"""Seconds for a tunnel to come up: a handshake takes a fraction of one, a busy machine several."""


@dataclass(frozen=True)
class Case:
    """One combination; the defaults are the plainest that works."""

    proto: str = "udp"
    wrap: str = "none"  # none, tls-auth(-swapped, -both: no direction), tls-crypt, tls-crypt-v2, tls-crypt-v2-beside
    tls: str = "1.3"
    cipher: str = "AES-256-GCM"
    family: int = 4
    digest: str = ""  # ``auth``, which tls-auth uses
    server_lines: tuple[str, ...] = ()
    client_lines: tuple[str, ...] = ()
    keys: str = "exporter"  # exporter, prf


def _inline(name: str, text: str) -> str:
    return f"<{name}>\n{text.strip()}\n</{name}>"


def _wrap_lines(case: Case, pki: Pki, static: str, direction: int) -> list[str]:
    """`direction` 0 is the server's. "beside": a server for both kinds, and a client with a key of its own."""
    if case.wrap == "none":
        return ["setenv opt allow-plain-tls"] if direction == 0 else []
    if case.wrap.startswith("tls-crypt-v2"):
        own = _inline("tls-crypt-v2", pki.v2_server if direction == 0 else pki.v2_client)
        return [own, _inline("tls-crypt", static)] if case.wrap.endswith("beside") and direction == 0 else [own]
    if case.wrap in ("tls-auth", "tls-auth-swapped"):
        direction = 1 - direction if case.wrap.endswith("swapped") else direction
        return [f"key-direction {direction}", _inline("tls-auth", static)]
    if case.wrap == "tls-auth-both":
        return [_inline("tls-auth", static)]
    return [_inline("tls-crypt", static)]


def _common(case: Case, pki: Pki, identity: Pem, ca: str, static: str, direction: int) -> list[str]:
    lines = [f"dev {TUN}", "dev-type tun", "persist-key", "persist-tun", f"data-ciphers {case.cipher}", "verb 3"]
    lines += ["tls-version-min 1.2", *(["tls-version-max 1.2"] if case.tls == "1.2" else [])]
    if case.tls == "1.3":
        lines[-1] = "tls-version-min 1.3"
    if case.digest:
        lines.append(f"auth {case.digest}")
    lines += [_inline("ca", ca), _inline("cert", identity.certificate), _inline("key", identity.key)]
    return lines + _wrap_lines(case, pki, static, direction)


def _proto(case: Case, role: str) -> str:
    return f"udp{case.family}" if case.proto == "udp" else f"tcp{case.family}-{role}"


def server_config(
    case: Case, pki: Pki, kind: str, *, identity: Pem | None = None, ca: str | None = None, static: str | None = None
) -> str:
    """The server's configuration for `kind` OPENVPN or OURS; keywords put wrong material in."""
    lines = [
        "server 10.99.0.0 255.255.255.0",
        "topology subnet",
        "keepalive 5 30",
        f"proto {_proto(case, 'server')}",
        f"port {PORT}",
        "dh none",
        "remote-cert-tls client",
        *_common(case, pki, identity or pki.server, ca or pki.ca, static or pki.static, 0),
        *(["disable-dco"] if kind == OPENVPN else []),
        *case.server_lines,
    ]
    return "\n".join(lines) + "\n"


def client_config(
    case: Case, pki: Pki, kind: str, *, identity: Pem | None = None, ca: str | None = None, static: str | None = None,
    name: str = SERVER_NAME, port: int = PORT,
) -> str:  # fmt: skip
    """The client's configuration, like `server_config`; `name` is what the server's certificate must bear."""
    lines = [
        "client",
        f"remote {SERVER_WIRE if case.family == 4 else SERVER_WIRE6} {port}",
        f"proto {_proto(case, 'client')}",
        "nobind",
        "remote-cert-tls server",
        f"verify-x509-name {name} name",
        *_common(case, pki, identity or pki.client, ca or pki.ca, static or pki.static, 1),
        *(["disable-dco"] if kind == OPENVPN else []),
        *case.client_lines,
    ]
    return "\n".join(lines) + "\n"


def command(kind: str, role: str, config: Path, *, prf: bool = False, debug: bool = False) -> list[str]:
    """How `kind` is started as `role` "server" or "client"; `debug` makes ours say which packets it drops."""
    if kind == OPENVPN:
        return ["openvpn", "--config", str(config), "--cd", str(config.parent)]
    module = "tests.interop.without_exporter" if prf else "qubes_miragevpn"
    return [sys.executable, "-m", module, *(["--debug"] if debug else []), role, str(config)]


class PeerFailed(AssertionError):
    """A program under test did not do what was waited for; the message ends with its log."""


class Peer:
    """A running program, its configuration and its log."""

    def __init__(
        self, name: str, kind: str, role: str, space: Namespace, config: str, folder: Path,
        *, prf: bool = False, debug: bool = False, stdin: int = subprocess.DEVNULL,
        wrapper: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.name, self.kind, self.role, self.space = name, kind, role, space
        self.log_file = folder / f"{name}.log"
        path = folder / f"{name}.conf"
        path.write_text(config, encoding="utf-8")
        path.chmod(0o600)
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                space.command(*wrapper, *command(kind, role, path, prf=prf, debug=debug)),
                stdin=stdin, stdout=log, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=ENVIRONMENT,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """All it has said so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def wait(self, what: str, condition: Callable[[], bool], within: float = UP_WITHIN) -> None:
        """Wait until `condition` holds; fail if that takes too long or the program ends."""
        deadline = time.monotonic() + within
        while not condition():
            if self.process.poll() is not None:
                code = self.process.returncode
                raise PeerFailed(f"{self.name} ended with {code} while waiting for {what}\n{self.log}")
            if time.monotonic() > deadline:
                raise PeerFailed(f"{self.name}: no {what} within {within:g} s\n{self.log}")
            time.sleep(0.05)

    def wait_up(self) -> str:
        """Wait until its end of the tunnel has an address; return that."""
        self.wait("tunnel", lambda: self.space.address(TUN) is not None)
        if self.kind == OPENVPN:
            self.wait("end of its start", lambda: "Initialization Sequence Completed" in self.log)
        elif self.role == "client":  # the first address is there before the others, and the routes
            self.wait("end of its start", lambda: " up: " in self.log)
        address = self.space.address(TUN)
        assert address is not None
        return address

    def wait_log(self, pattern: str, within: float = UP_WITHIN) -> re.Match[str]:
        """Wait until a line of the log matches."""
        self.wait(f"log line {pattern!r}", lambda: re.search(pattern, self.log) is not None, within)
        match = re.search(pattern, self.log)
        assert match is not None
        return match

    def must_have_said(self, pattern: str) -> None:
        """Fail unless a program that has ended said a line that matches."""
        if not re.search(pattern, self.log):
            raise PeerFailed(f"{self.name} did not say {pattern!r}\n{self.log}")

    def wait_exit(self, within: float = UP_WITHIN) -> int:
        """Wait until it ends by itself; return its exit code."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"{self.name} still runs after {within:g} s\n{self.log}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, within: float = 10.0) -> int:
        """Ask it to end (it is killed if it does not, which fails the test); return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise PeerFailed(f"{self.name} did not end on {number.name} within {within:g} s\n{self.log}") from None

    def kill(self) -> None:
        """End it at once, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
