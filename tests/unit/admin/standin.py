# SPDX-License-Identifier: BSD-2-Clause
"""A double of qubesadmin, for machines that have none: the parts that our tool uses, and nothing else.

The true one is in Qubes' own repositories alone. Where it is installed, the tests take it (see `dom0`); this one has
the same surface - `Qubes()` in its two kinds, `qubesd_call`, `run_service`, the errors - and speaks the same bytes to
the same outer edges: qubesd's socket, `qrexec-client`, `qrexec-client-vm` (qubes-core-admin-client: app.py, base.py,
exc.py, config.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from types import ModuleType
from typing import Any


def install() -> ModuleType:
    """Make the double `qubesadmin` and return it."""
    package, errors, app, config = (
        ModuleType(name) for name in ("qubesadmin", "qubesadmin.exc", "qubesadmin.app", "qubesadmin.config")
    )
    config.QUBESD_SOCKET = "/var/run/qubesd.sock"
    config.QREXEC_CLIENT = "/usr/lib/qubes/qrexec-client"
    config.QREXEC_CLIENT_VM = "/usr/bin/qrexec-client-vm"
    for each in (
        QubesException, QubesVMNotFoundError, QubesFeatureNotFoundError, QubesVMNotHaltedError, QubesVMInUseError,
        QubesDaemonCommunicationError, QubesDaemonAccessError,
    ):  # fmt: skip
        setattr(errors, each.__name__, each)
    app.QubesLocal, app.QubesRemote = QubesLocal, QubesRemote
    package.exc, package.app, package.config = errors, app, config
    package.Qubes = QubesRemote
    for module in (package, errors, app, config):
        sys.modules[module.__name__] = module
    return package


class QubesException(Exception):
    """Base of what qubesd answers instead of data."""

    def __init__(self, message_format: str, *args: str) -> None:
        super().__init__(message_format % args)


class QubesVMNotFoundError(QubesException, KeyError):
    __str__ = QubesException.__str__


class QubesFeatureNotFoundError(QubesException, KeyError):
    __str__ = QubesException.__str__


class QubesVMNotHaltedError(QubesException):
    pass


class QubesVMInUseError(QubesException):
    pass


class QubesDaemonCommunicationError(QubesException):
    pass


class QubesDaemonAccessError(QubesDaemonCommunicationError):
    pass


def _parsed(answer: bytes) -> bytes:
    """Data after ``0 NUL``; after ``2 NUL`` an error's name, traceback, format and arguments, each ended by NUL."""
    errors = sys.modules["qubesadmin.exc"]
    if not answer:
        raise QubesDaemonAccessError("Got empty response from qubesd.")
    if answer[:2] == b"0\0":
        return answer[2:]
    if answer[:2] != b"2\0":
        raise QubesDaemonCommunicationError("Invalid response format")
    _, name, _, text, arguments = answer.split(b"\0", 4)
    kind = getattr(errors, name.decode("ascii"), QubesException)
    raise kind(text.decode(), *(each.decode() for each in arguments.split(b"\0")[:-1]))


class QubesLocal:
    """In dom0: a call is a connection to qubesd's socket."""

    qubesd_connection_type = "socket"

    def qubesd_call(self, dest: str, method: str, arg: str | None = None, payload: bytes | None = None) -> bytes:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(sys.modules["qubesadmin.config"].QUBESD_SOCKET)
        except OSError as error:
            raise QubesDaemonCommunicationError("Failed to connect to qubesd service: %s", str(error)) from None
        with link:
            link.sendall(f"{method}+{arg or ''} dom0 name {dest}\0".encode("ascii") + (payload or b""))
            link.shutdown(socket.SHUT_WR)
            return _parsed(link.makefile("rb").read())

    def run_service(self, dest: str, service: str, **kwargs: Any) -> subprocess.Popen[bytes]:
        with contextlib.suppress(QubesVMNotHaltedError):
            self.qubesd_call(dest, "admin.vm.Start")
        client = sys.modules["qubesadmin.config"].QREXEC_CLIENT
        filtering = ["-T"] if os.isatty(sys.stderr.fileno()) else []
        return _started([client, "-d", dest, *filtering, f"DEFAULT:QUBESRPC {service} dom0"], kwargs)


class QubesRemote:
    """In a management qube: a call is a qrexec call."""

    qubesd_connection_type = "qrexec"

    def qubesd_call(self, dest: str, method: str, arg: str | None = None, payload: bytes | None = None) -> bytes:
        service = method if arg is None else f"{method}+{arg}"
        process = _started([sys.modules["qubesadmin.config"].QREXEC_CLIENT_VM, dest, service], {})
        answer, complaint = process.communicate(payload)
        if process.returncode != 0:
            raise QubesDaemonAccessError("Service call error: %s", complaint.decode())
        return _parsed(answer)

    def run_service(self, dest: str, service: str, **kwargs: Any) -> subprocess.Popen[bytes]:
        return _started([sys.modules["qubesadmin.config"].QREXEC_CLIENT_VM, dest, service], kwargs)


def _started(command: list[str], kwargs: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, **{**dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE), **kwargs})
