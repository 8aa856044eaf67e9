# SPDX-License-Identifier: BSD-2-Clause
"""sys-vpn as a product: what the package installs there, the early step, and the service, started as systemd would.

The files of the repository are put where the package puts them, and the units' own ExecStart lines are run, as the
units' user with the units' capabilities, with the readiness and watchdog protocol of systemd at the other end of
NOTIFY_SOCKET, and with root's helper behind its socket. Nothing is configured for the lab but the profiles: paths,
numbers and pauses are those of a real qube.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.lab import qrexec
from tests.lab.network import Lab
from tests.lab.providers import Providers
from tests.lab.qube import REPOSITORY, LabError, Qube, drain

NOTIFY = "/run/systemd/notify"
PROFILES = "/etc/qubes-miragevpn/profiles"
SERVICE_UNIT, EARLY_UNIT = "qubes-miragevpn.service", "qubes-miragevpn-lockdown.service"
SOCKET_UNIT, HELPER_UNIT = "qubes-miragevpn-dns.socket", "qubes-miragevpn-dns@.service"
UNITS = REPOSITORY / "install" / "vm" / "systemd"

WRAPPER = f"""#!/bin/sh
PYTHONPATH={shlex.quote(str(REPOSITORY))} exec {shlex.quote(sys.executable)} -m qubes_miragevpn "$@"
"""


def unit_values(unit: str, key: str) -> list[str]:
    """The values of `key` in one of our unit files, in order."""
    lines = (UNITS / unit).read_text().replace("\\\n", " ").splitlines()
    return [value.strip() for name, _, value in (line.partition("=") for line in lines) if name.strip() == key]


def identity() -> list[str]:
    """The command that runs another as the unit's user, with the unit's capabilities, and no way to get more."""
    (user,), (group,) = unit_values(SERVICE_UNIT, "User"), unit_values(SERVICE_UNIT, "Group")
    (bounds,), (ambient,) = (
        unit_values(SERVICE_UNIT, "CapabilityBoundingSet"),
        unit_values(SERVICE_UNIT, "AmbientCapabilities"),
    )
    bound, given = (
        ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in names.split())])
        for names in (bounds, ambient)
    )
    return [
        *("setpriv", "--reuid", user, "--regid", group, "--init-groups", "--no-new-privs"),
        *("--bounding-set", bound, "--inh-caps", given, "--ambient-caps", given),
    ]


def install(qube: Qube) -> None:
    """Put the repository's files where the package puts them in a VM."""
    qube.write("/usr/bin/miragevpn", WRAPPER, 0o755)
    vm = UNITS.parent
    for source, target in (
        (vm, "/usr/lib/qubes-miragevpn"),
        (UNITS, "/usr/lib/systemd/system"),
        (vm / "sysusers.d", "/usr/lib/sysusers.d"),
        (vm / "tmpfiles.d", "/usr/lib/tmpfiles.d"),
        (REPOSITORY / "qubes-rpc", "/etc/qubes-rpc"),
    ):
        shutil.copytree(source, qube.path(target), dirs_exist_ok=True)
    for service in (REPOSITORY / "qubes-rpc").iterdir():
        qube.write(f"/etc/qubes/rpc-config/{service.name}", (vm / "rpc-config" / "miragevpn").read_text())
    shutil.copy(vm / "qubes-miragevpn-dns.py", qube.path("/usr/lib/qubes-miragevpn/qubes-miragevpn-dns"))
    qube.run("systemd-sysusers", "/usr/lib/sysusers.d/qubes-miragevpn.conf")


def early(lab: Lab) -> None:
    """The boot step that closes the network, before forwarding is switched on and without the service."""
    install(lab.vpn)
    for command in unit_values(EARLY_UNIT, "ExecStart"):
        lab.vpn.run(*shlex.split(command.lstrip("-")))


def add_profiles(lab: Lab, providers: Providers, current: str | None = None) -> None:
    """What the user does once: copy the profiles into the qube; `current` is the one that was used last."""
    for provider in (providers.a, providers.b):
        lab.vpn.write(f"{PROFILES}/{provider.offer.profile}.ovpn", provider.profile_text, 0o600)
    if current is not None:
        lab.vpn.write("/etc/qubes-miragevpn/state/chosen.json", json.dumps({"tunnels": {"0": current}}), 0o600)


class Helper:
    """systemd's part in `qubes-miragevpn-dns.socket`: a socket, and root's program for each connection to it."""

    def __init__(self, qube: Qube) -> None:
        self._qube = qube
        (path,), (user,), (mode,) = (
            unit_values(SOCKET_UNIT, key) for key in ("ListenStream", "SocketUser", "SocketMode")
        )
        (self._program,) = unit_values(HELPER_UNIT, "ExecStart")
        (self._state,) = unit_values(HELPER_UNIT, "RuntimeDirectory")
        qube.path(f"/run/{self._state}").mkdir(mode=0o700)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(qube.path(path)))
        qube.run("chown", user, path)
        qube.path(path).chmod(int(mode, 8))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _peer = self._listener.accept()
                with connection:
                    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "RUNTIME_DIRECTORY": f"/run/{self._state}"}
                    self._qube.popen(
                        [sys.executable, "-I", "-S", self._program],
                        stdin=connection,
                        stdout=connection,
                        env=environment,
                    )

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


class Service:
    """The service of sys-vpn; started, stopped, killed and frozen as the tests like."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.log: list[str] = []
        self.notes: list[dict[str, str]] = []
        self.beats = 0
        self.watchdog = float(unit_values(SERVICE_UNIT, "WatchdogSec")[0])
        self.process: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._closed = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener.settimeout(0.1)
        lab.vpn.path("/run/systemd").mkdir(exist_ok=True)
        self._listener.bind(str(lab.vpn.path(NOTIFY)))
        lab.vpn.path(NOTIFY).chmod(0o777)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._helper = Helper(lab.vpn)
        lab.on_close(self.close)

    # --- systemd's part -----------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start it as the unit says; `wait_ready` may follow."""
        (command,) = unit_values(SERVICE_UNIT, "ExecStart")
        (folder,) = unit_values(SERVICE_UNIT, "RuntimeDirectory")
        (user,) = unit_values(SERVICE_UNIT, "User")
        vpn = self.lab.vpn
        vpn.run("install", "-d", "-o", user, "-g", user, f"/run/{folder}")
        for step in unit_values(SERVICE_UNIT, "ExecStartPre"):
            vpn.run(*shlex.split(step.lstrip("-+")))
        self._ready.clear()
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "LANG": "C.UTF-8",
            "NOTIFY_SOCKET": NOTIFY,
            "WATCHDOG_USEC": str(int(self.watchdog * 1e6)),
            **{name: os.environ[name] for name in ("MIRAGEVPN_DATAPLANE",) if name in os.environ},
        }
        pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        self.process = vpn.popen([*identity(), *shlex.split(command)], env=environment, **pipe)
        assert self.process.stdout is not None
        drain(self.process.stdout, lambda line: self.log.append(line.decode(errors="replace").rstrip()))

    def wait_ready(self, within: float = 45) -> None:
        """Return when it said READY=1; raises `LabError` with its log when it does not."""
        self.until(self._ready.is_set, "READY=1", within)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        self.wait_ready()

    def until(self, condition: Callable[[], bool], what: str, within: float = 45) -> float:
        """Wait for `condition`; returns the seconds it took, raises `LabError` when it takes too long or it ends."""
        assert self.process is not None
        begin = time.monotonic()
        while not condition():
            if self.process.poll() is not None:
                raise LabError(f"the service ended with {self.process.returncode} before {what}\n{self.tail()}")
            if time.monotonic() > begin + within:
                raise LabError(f"no {what} within {within:g} s\n{self.tail()}")
            time.sleep(0.02)
        return time.monotonic() - begin

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log[-lines:])

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its main process."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self, within: float = 30) -> int:
        """``systemctl stop``: SIGTERM, and wait; returns the exit code."""
        self.send(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(within)

    def close(self) -> None:
        """Stop listening; the process dies with the qube."""
        self._closed = True
        self._thread.join()
        self._listener.close()
        self._helper.close()

    def _listen(self) -> None:
        while not self._closed:
            try:
                message = self._listener.recv(4096).decode(errors="replace")
            except TimeoutError:
                continue
            note = dict(line.partition("=")[::2] for line in message.splitlines())
            self.beats += note.get("WATCHDOG") == "1"
            self.notes.append(note)
            if note.get("READY") == "1":
                self._ready.set()

    # --- what others ask of it ----------------------------------------------------------------------------

    def call(self, service: str, argument: str = "", **options: Any) -> qrexec.Reply:
        """A qrexec call of another qube."""
        return qrexec.call(self.lab.vpn, f"miragevpn.{service}", argument, **options)

    def status(self) -> dict[str, Any]:
        """What miragevpn.Status answers; {} when it does not answer."""
        reply = self.call("Status")
        return dict(json.loads(reply.output)) if reply.code == 0 else {}

    def state(self) -> str:
        """The state in the status, "" without a service."""
        return str(self.status().get("state", ""))

    def wait_state(self, state: str, within: float = 60, profile: str = "") -> float:
        """Wait until it is in `state` (with `profile`)."""

        def reached() -> bool:
            status = self.status()
            return status.get("state") == state and (not profile or status.get("profile") == profile)

        return self.until(reached, f"state {state}", within)
