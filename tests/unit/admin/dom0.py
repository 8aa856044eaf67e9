# SPDX-License-Identifier: BSD-2-Clause
"""A dom0 made of its outer edges: qubesd's socket and the qrexec programs, with every call written down beforehand.

    qvm-miragevpn -> qubesadmin (true, or `standin`) -> qubesd.sock       METHOD+ARG dom0 name DEST NUL PAYLOAD
                                                     -> qrexec-client     -d DEST USER:QUBESRPC SERVICE+ARG dom0
                                                     -> qrexec-client-vm  DEST SERVICE+ARG

As in qubesadmin's own tests a call is expected as (destination, method, argument, payload) with the bytes of its reply,
and a call that was not expected, or an expected one that was not made, fails the test.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qubes_miragevpn.admin.commands.policy import lines
from tests.unit.admin import standin

Key = tuple[str, str, str, bytes]
"""Destination, method or service, argument, and what is handed in."""

RUNNING = b"2\0QubesVMNotHaltedError\0\0VM is not halted\0"
NO_FEATURE = b"2\0QubesFeatureNotFoundError\0\0Feature not set for domain: %s\0x\0"
DENIED = b""  # what qubesd says to somebody who may not: nothing

LAUNCHER = """#!/bin/sh
exec '{python}' -ISE '{program}' "$0" "$@"
"""

PROGRAM = """
import json, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({socket!r})
words = json.dumps(sys.argv[1:]).encode()
link.sendall(len(words).to_bytes(4, "big") + words)
try:
    while part := sys.stdin.buffer.read1():
        link.sendall(part)
    link.shutdown(socket.SHUT_WR)
except OSError:
    pass
answer = link.makefile("rb")
code = answer.read(1)
while part := answer.read1():
    sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
sys.exit(code[0])
"""


def qubesadmin() -> ModuleType:
    """The true qubesadmin if there is one, else the double."""
    try:
        import qubesadmin
        import qubesadmin.app
        import qubesadmin.exc
    except ImportError:
        return standin.install()
    return qubesadmin  # type: ignore[no-any-return]


class Dom0:
    """The scripted edges. `in_dom0`: the tool runs there, else in the management qube `mgmt`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, in_dom0: bool) -> None:
        self.in_dom0 = in_dom0
        self.calls: dict[Key, list[bytes]] = {}
        self.services: dict[Key, list[tuple[int, bytes]]] = {}
        self.made: list[Key] = []
        self.wrong: list[str] = []
        self.answer: Callable[[Key], bytes] | None = None  # instead of the script: a system with a state
        package = qubesadmin()
        self._qubesd = self._listen(folder / "qubesd", self._serve_qubesd)
        self._qrexec = self._listen(folder / "qrexec", self._serve_qrexec)
        program = folder / "qrexec-client"
        (folder / "client.py").write_text(PROGRAM.format(socket=str(folder / "qrexec")))
        program.write_text(LAUNCHER.format(python=sys.executable, program=folder / "client.py"))
        program.chmod(0o755)
        monkeypatch.setattr(package.config, "QUBESD_SOCKET", str(folder / "qubesd"))
        monkeypatch.setattr(package.config, "QREXEC_CLIENT", str(program))
        monkeypatch.setattr(package.config, "QREXEC_CLIENT_VM", str(program))
        monkeypatch.setattr(package, "Qubes", package.app.QubesLocal if in_dom0 else package.app.QubesRemote)
        self.policy = folder / "policy.d"
        self.policy.mkdir()
        monkeypatch.setattr("qubes_miragevpn.admin.policyfile.DIRECTORY", self.policy)

    # --- the script -----------------------------------------------------------------------------------------

    def expect(self, dest: str, method: str, arg: str, reply: bytes, payload: bytes = b"") -> None:
        """An Admin API call, and qubesd's answer with its first two bytes."""
        self.calls.setdefault((dest, method, arg, payload), []).append(reply)

    def has(self, dest: str, method: str, arg: str, data: str, payload: bytes = b"") -> None:
        """The same with an answer that is data."""
        self.expect(dest, method, arg, b"0\0" + data.encode(), payload)

    def property(self, qube: str, name: str, kind: str, value: str) -> None:
        self.has(qube, "admin.vm.property.Get", name, f"default=False type={kind} {value}")

    def feature(self, qube: str, name: str, value: str | None) -> None:
        self.expect(qube, "admin.vm.feature.Get", name, NO_FEATURE if value is None else b"0\0" + value.encode())

    def service(self, qube: str, name: str, reply: Any, *, code: int = 0, payload: bytes = b"") -> None:
        """A qrexec call ``SERVICE+ARG`` and its answer; in dom0 qubesadmin starts the qube before it."""
        service, _, argument = name.partition("+")
        text = reply if isinstance(reply, bytes) else json.dumps(reply).encode() + b"\n"
        self.services.setdefault((qube, service, argument, payload), []).append((code, text))
        if self.in_dom0:
            self.expect(qube, "admin.vm.Start", "", RUNNING)

    def done(self) -> None:
        """Nothing unexpected was called, and nothing expected is left over."""
        left = [key for script in (self.calls, self.services) for key, replies in script.items() for _ in replies]
        assert not self.wrong, self.wrong
        assert not left, left

    def close(self) -> None:
        for listener in (self._qubesd, self._qrexec):
            listener.shutdown(socket.SHUT_RDWR)  # wakes its thread
            listener.close()

    # --- the edges ------------------------------------------------------------------------------------------

    def _listen(self, path: Path, serve: Callable[[socket.socket], None]) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(16)

        def accept() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                except OSError:
                    return
                with link:
                    try:
                        serve(link)
                    except OSError:  # the tool has hung up, as it does on one who talks too much
                        continue
                    except Exception as error:
                        self.wrong.append(repr(error))

        threading.Thread(target=accept, daemon=True).start()
        return listener

    def _serve_qubesd(self, link: socket.socket) -> None:
        header, _, payload = link.makefile("rb").read().partition(b"\0")
        call, source, kind, dest = header.decode("ascii").split(" ")
        if (source, kind) != ("dom0", "name"):
            self.wrong.append(f"not how qubesd is called: {header!r}")
        method, _, argument = call.partition("+")
        link.sendall(self._admin((dest, method, argument, payload)))

    def _serve_qrexec(self, link: socket.socket) -> None:
        stream = link.makefile("rb")
        words = json.loads(stream.read(int.from_bytes(stream.read(4), "big")))
        if self.in_dom0:
            assert words[1] == "-d" and words[-1].endswith(" dom0"), words
            user, _, service = words[-1].removesuffix(" dom0").partition(":QUBESRPC ")
            assert user == "DEFAULT", words
            dest = words[2]
        else:
            dest, service = words[-2:]
        name, _, argument = service.partition("+")
        if name.startswith("admin."):
            link.sendall(b"\0" + self._admin((dest, name, argument, stream.read())))
            return
        expected = next(
            (key for key in self.services if key[:3] == (dest, name, argument) and self.services[key]), None
        )
        payload = stream.read() if expected is None or expected[3] else b""
        key = (dest, name, argument, payload)
        self.made.append(key)
        if not self.services.get(key):
            self.wrong.append(f"not expected: {key}")
            link.sendall(b"\x7d")
            return
        code, text = self.services[key].pop(0)
        link.sendall(bytes([code]) + text)

    def _admin(self, key: Key) -> bytes:
        self.made.append(key)
        if self.answer is not None:
            return self.answer(key)
        if not self.calls.get(key):
            self.wrong.append(f"not expected: {key}")
            return DENIED
        return self.calls[key].pop(0)

    # --- what the policy makes of it ------------------------------------------------------------------------

    def beyond_policy(self, command: str, vpn: str, clients: list[str], template: str) -> list[Key]:
        """The calls made that `policy --only COMMAND` does not let a management qube make."""
        allowed = set()
        for line in lines("mgmt", vpn, clients, template, [command]):
            words = line.split()
            if words and not line.startswith("#"):
                allowed.add((words[0], words[1], words[3]))

        def covered(key: Key) -> bool:
            dest = "@adminvm" if key[0] == "dom0" else key[0]
            return any(
                (key[1], argument, target) in allowed
                for argument in ("*", f"+{key[2]}")
                for target in (dest, *(() if dest == "@adminvm" else ("@anyvm",)))
            )

        return [key for key in self.made if not covered(key)]
