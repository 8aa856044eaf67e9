# SPDX-License-Identifier: BSD-2-Clause
"""The proxies of the distribution, each with a configuration of its own and nothing of the machine's.

squid speaks basic and digest, tinyproxy basic, dante SOCKS5 for TCP and UDP. dante looks users up in the system's
files, so it runs in a mount namespace in which those are ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.interop.netns import ENVIRONMENT, SERVER_WIRE, Namespace

USER, PASSWORD = "alice", "open sesame"
REALM = "lab"
PORTS = {"squid": 3128, "tinyproxy": 8888, "danted": 1080}
STARTED_WITHIN = 20.0

_SQUID = """\
http_port {address}:{port}
pid_filename none
cache_log {folder}/squid.log
access_log stdio:{folder}/access.log
coredump_dir {folder}
cache deny all
shutdown_lifetime 0 seconds
pinger_enable off
auth_param {auth}
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""

_TINYPROXY = """\
Port {port}
Listen {address}
Timeout 600
MaxClients 20
ConnectPort 1194
{auth}
"""

_DANTE = """\
logoutput: {folder}/danted.log
internal: {address} port = {port}
external: lo
user.privileged: root
user.unprivileged: nobody
clientmethod: none
socksmethod: {auth}
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 command: bind connect udpassociate }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 command: bindreply udpreply }}
"""


def _squid(folder: Path, login: str) -> tuple[list[str], str]:
    helpers = next(path for path in map(Path, ("/usr/lib/squid", "/usr/lib64/squid")) if path.is_dir())
    if login == "digest":
        secret = hashlib.md5(f"{USER}:{REALM}:{PASSWORD}".encode(), usedforsecurity=False).hexdigest()
        (folder / "users").write_text(f"{USER}:{REALM}:{secret}\n", encoding="ascii")
        auth = f"digest program {helpers}/digest_file_auth -c {folder}/users\nauth_param digest realm {REALM}"
    else:
        hashed = subprocess.run(
            ["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True
        ).stdout.strip()  # fmt: skip
        (folder / "users").write_text(f"{USER}:{hashed}\n", encoding="ascii")
        auth = f"basic program {helpers}/basic_ncsa_auth {folder}/users\nauth_param basic realm {REALM}"
    return ["squid", "-N", "-n", f"lab{os.getpid()}", "-f", str(folder / "proxy.conf")], _SQUID.replace("{auth}", auth)


def _tinyproxy(folder: Path, login: str) -> tuple[list[str], str]:
    auth = f"BasicAuth {USER} {PASSWORD.replace(' ', '')}" if login else ""
    return ["tinyproxy", "-d", "-c", str(folder / "proxy.conf")], _TINYPROXY.replace("{auth}", auth)


def _danted(folder: Path, login: str) -> tuple[list[str], str]:
    program = "danted" if _has("danted") else "sockd"
    run = [program, "-N", "1", "-f", str(folder / "proxy.conf"), "-p", str(folder / "pid")]
    if login:
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", PASSWORD], capture_output=True, text=True, check=True
        ).stdout.strip()  # fmt: skip
        for name, line in (("passwd", f"{USER}:x:4242:4242::/:/bin/false\n"), ("shadow", f"{USER}:{hashed}:1::::::\n")):
            (folder / name).write_text(Path("/etc", name).read_text(encoding="utf-8") + line, encoding="utf-8")
        binds = "".join(f"mount --bind {folder}/{name} /etc/{name} && " for name in ("passwd", "shadow"))
        run = ["unshare", "--mount", "sh", "-c", f'{binds}exec "$@"', "sh", *run]
    return run, _DANTE.replace("{auth}", "username" if login else "none")


def _has(program: str) -> bool:
    return any((Path(folder) / program).exists() for folder in ENVIRONMENT["PATH"].split(":"))


_PROGRAMS = {"squid": _squid, "tinyproxy": _tinyproxy, "danted": _danted}


@contextlib.contextmanager
def running(name: str, login: str, space: Namespace, folder: Path) -> Iterator[Path]:
    """Run the proxy `name` in `space`, wanting `login` ("" none, "basic", "digest", "password"); gives its log."""
    folder.mkdir()
    folder.chmod(0o777)  # squid and dante work as other users
    for parent in folder.parents:
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(parent.stat().st_mode | 0o011)
    command, template = _PROGRAMS[name](folder, login)
    text = template.format(address=SERVER_WIRE, port=PORTS[name], folder=folder)
    (folder / "proxy.conf").write_text(text, encoding="utf-8")
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            space.command(*command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT,
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, space, PORTS[name], folder)
        yield log
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its helpers and children
        process.wait()


def _wait(process: subprocess.Popen[bytes], space: Namespace, port: int, folder: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN
    while True:
        try:
            space.call(lambda: socket.create_connection((SERVER_WIRE, port), timeout=1).close())
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                said = "\n".join(path.read_text(errors="replace") for path in folder.glob("*.log"))
                raise AssertionError(f"the proxy does not start:\n{said}") from None
            time.sleep(0.05)
