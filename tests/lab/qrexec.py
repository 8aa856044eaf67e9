# SPDX-License-Identifier: BSD-2-Clause
"""Run a qrexec service in sys-vpn exactly as the qrexec agent does when a call from another qube was allowed.

Order of folders, lookup with and without argument, the environment, the login shell, the user and rpc-config's
force-user, socket services with their descriptor, exit codes 125 and 127: as in qubes-core-qrexec (libqrexec/exec.c,
agent/qrexec-agent.c). The daemon in dom0 replaces every byte outside its character set by "_", and the caller's name
comes from there as well. The policy in dom0 is not played: what arrives here has been allowed.
"""

from __future__ import annotations

import re
import shlex
import socket
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.qube import Qube

SERVICE_FOLDERS = ("/run/qubes-rpc", "/usr/local/etc/qubes-rpc", "/etc/qubes-rpc")
CONFIG_FOLDERS = ("/run/qubes/rpc-config", "/usr/local/etc/qubes/rpc-config", "/etc/qubes/rpc-config")
PROBLEM, NOT_FOUND = 125, 127
MAX_COMMAND = 65000
DEFAULT_USER = "user"
OTHER_BYTES = re.compile(r"[^A-Za-z0-9+._-]")


@dataclass(frozen=True)
class Reply:
    """What the caller gets."""

    code: int
    output: str
    complaint: str


def call(
    qube: Qube, service: str, argument: str = "", *, source: str = "work", data: bytes = b"", timeout: float = 30
) -> Reply:
    """Call `service` with `argument` in `qube` on behalf of the qube `source`, `data` on its standard input."""
    name, argument = OTHER_BYTES.sub("_", service), OTHER_BYTES.sub("_", argument)
    if len(name) + len(argument) > MAX_COMMAND:
        return Reply(PROBLEM, "", "the command is too long")
    found = _find(qube, SERVICE_FOLDERS, name, argument)
    if found is None:
        return Reply(NOT_FOUND, "", f"service {name}+{argument} is not there")
    config = _find(qube, CONFIG_FOLDERS, name, argument)
    options = _read_config(qube.path(config).read_text()) if config else {}
    path = qube.path(found)
    if path.is_symlink() or stat.S_ISSOCK(path.lstat().st_mode):
        return _call_socket(qube, path, f"{name}+{argument} {source}", data, options, timeout)
    user = options.get("force-user", DEFAULT_USER)
    environment = {
        "QREXEC_REMOTE_DOMAIN": source,
        "QREXEC_SERVICE_FULL_NAME": f"{name}+{argument}",
        "QREXEC_SERVICE_ARGUMENT": argument,
        "QREXEC_REQUESTED_TARGET_TYPE": "",
        "QREXEC_AGENT_PID": str(qube.holder.pid),
        "USER": user,
        "LOGNAME": user,
        "HOME": "/root" if user == "root" else f"/home/{user}",
        "SHELL": "/bin/sh",
    }
    program = shlex.join([found, *([argument] if argument else [])])
    identity = [] if user == "root" else ["setpriv", "--reuid", user, "--regid", user, "--init-groups"]
    clean = ["env", "-i", *(f"{key}={value}" for key, value in environment.items())]
    process = qube.popen(
        [*clean, *identity, "/bin/sh", "-lc", f"exec {program}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        output, complaint = process.communicate(data, timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Reply(process.returncode, output.decode(errors="replace"), complaint.decode(errors="replace"))


def _find(qube: Qube, folders: tuple[str, ...], name: str, argument: str) -> str | None:
    """First NAME+ARGUMENT in every folder, then NAME."""
    for candidate in (f"{name}+{argument}", name):
        for folder in folders:
            path = f"{folder}/{candidate}"
            if len(candidate) <= 255 and (qube.path(path).exists() or qube.path(path).is_symlink()):
                return path
    return None


def _read_config(text: str) -> dict[str, str]:
    lines = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("'") for key, value in lines}


def _call_socket(
    qube: Qube, path: Path, descriptor: str, data: bytes, options: dict[str, str], timeout: float
) -> Reply:
    """A unix stream socket, or a symbolic link to one: the descriptor, a NUL, then the caller's input."""
    if "force-user" in options:
        return Reply(PROBLEM, "", "force-user does not go with a socket service")
    target = qube.path(str(path.readlink())) if path.is_symlink() else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(target))
        except OSError as error:
            return Reply(PROBLEM, "", f"cannot connect to the service's socket: {error.strerror}")
        if options.get("skip-service-descriptor") != "true":
            connection.sendall(descriptor.encode() + b"\0")
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        output = b""
        while piece := connection.recv(65536):
            output += piece
    return Reply(0, output.decode(errors="replace"), "")
