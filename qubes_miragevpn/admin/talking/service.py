# SPDX-License-Identifier: BSD-2-Clause
"""Calling a qrexec service of a qube that is not trusted: bounded in bytes and in time, whatever it does.

The exit code and the output are the qube's, and mean no more than what the qube says of itself. Codes 125, 126 and
127 are qrexec's own (doc/rpc.md). What a service prints is read here and validated by `talking.replies`.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.admin.talking.allowed import About
from qubes_miragevpn.admin.talking.machine import Machine
from qubes_miragevpn.base.exitcodes import ExitCode

MAX_REPLY = 1 << 17  # bytes: a thousand names of profiles, as doc/rpc.md bounds it
MAX_PROFILE = 1 << 20  # bytes of a profile, or of a tar with its files
MAX_SECRET = 4096  # bytes of a user name and a password
REPLY_TIME = 40.0  # seconds; the service takes thirty at most to read what is handed in
COPY_TIME = 60.0  # seconds to read a file in another qube


@dataclass(frozen=True)
class Outcome:
    """How a call ended, and what the qube printed."""

    code: int
    untrusted_output: bytes


def ask(
    machine: Machine,
    vpn: str,
    service: str,
    argument: str = "",
    payload: bytes = b"",
    *,
    about: About = About.VPN,
    limit: int = MAX_REPLY,
    seconds: float = REPLY_TIME,
) -> Outcome:
    """Call `service` of `vpn` with `payload` on its input; raises `Failure` if it cannot be called or overdoes it."""
    process = machine.start_service(service, argument, about, vpn)
    try:
        output = _exchange(process, payload, limit, time.monotonic() + seconds)
        code = process.wait(5)
    except (_TooMuch, subprocess.TimeoutExpired, TimeoutError) as error:
        what = "printed more than it may" if isinstance(error, _TooMuch) else "did not end in time"
        raise Failure(ExitCode.NO_SERVICE, f"{service} in {vpn} {what}", f"look at {vpn}'s own log") from None
    finally:
        _end(process)
    return Outcome(_checked(code, service, vpn, machine), output)


def listen(machine: Machine, vpn: str, service: str) -> Iterator[bytes]:
    """Each line that a service prints, for as long as it runs; raises `Failure` as `ask` does."""
    process = machine.start_service(service, "", About.VPN, vpn)
    try:
        assert process.stdout is not None and process.stdin is not None  # pipes, by `start_service`
        process.stdin.close()  # it takes none
        while line := process.stdout.readline(MAX_REPLY + 1):
            if len(line) > MAX_REPLY:
                raise Failure(
                    ExitCode.NO_SERVICE, f"{service} in {vpn} printed more than it may", f"look at {vpn}'s own log"
                )
            yield line
        _checked(process.wait(5), service, vpn, machine)
    except subprocess.TimeoutExpired:
        raise Failure(
            ExitCode.NO_SERVICE, f"{service} in {vpn} did not end in time", f"look at {vpn}'s own log"
        ) from None
    finally:
        _end(process)


class _TooMuch(Exception):
    """More was printed than was to be read."""


def _exchange(process: subprocess.Popen[bytes], payload: bytes, limit: int, deadline: float) -> bytes:
    """Write and read side by side, so that neither pipe can block us; raises `_TooMuch`, `TimeoutError`."""
    assert process.stdin is not None and process.stdout is not None  # pipes, by `start_service`
    received, waiting = bytearray(), memoryview(payload)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if payload:
            selector.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for key, _ in selector.select(left):
                if key.fileobj is process.stdout:
                    part = os.read(process.stdout.fileno(), 65536)
                    received += part
                    if len(received) > limit:
                        raise _TooMuch
                    if not part:
                        return bytes(received)
                else:
                    waiting = _write(process, waiting)
                    if not waiting:
                        selector.unregister(process.stdin)
                        process.stdin.close()


def _write(process: subprocess.Popen[bytes], waiting: memoryview) -> memoryview:
    assert process.stdin is not None  # a pipe, by `start_service`
    try:
        return waiting[os.write(process.stdin.fileno(), waiting[:65536]) :]
    except BlockingIOError:
        return waiting
    except BrokenPipeError:  # the service wants no more; its answer says why
        return waiting[:0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no process and no pipe behind."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was buffered for a service that has gone
                continue
    if process.poll() is None:
        process.kill()
    process.wait()


def _checked(code: int, service: str, vpn: str, machine: Machine) -> int:
    """The service's own exit code; raises `Failure` for qrexec's."""
    if code == 126:
        raise Failure(
            ExitCode.REFUSED,
            f"dom0's policy does not let this qube call {service} in {vpn}",
            "`qvm-miragevpn policy` in dom0 prints the lines that allow it",
        )
    if code == 127:
        raise Failure(
            ExitCode.NO_SERVICE,
            f"{vpn} has no {service}",
            f"`qvm-miragevpn doctor {vpn}`: is the package in its template, and was {vpn} restarted since?",
        )
    if code == 125 or code < 0 or code > 127:
        where = "dom0" if machine.in_dom0 else "this qube"
        raise Failure(ExitCode.NO_SERVICE, f"{service} in {vpn} could not be called", f"{where}'s journal says why")
    return code
