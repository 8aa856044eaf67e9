# SPDX-License-Identifier: BSD-2-Clause
"""Verdicts on a configuration: does openvpn take its options, and do we?

openvpn is made to end right after it has taken the options and loaded certificates and keys, by naming a user that
does not exist: it says so before it opens a socket. Ours is the verdict of `miragevpn check`.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.building.trust import Surroundings
from qubes_miragevpn.config.loader import examine_client, examine_server, examine_static, looks_static
from qubes_miragevpn.config.model import StaticConfig
from qubes_miragevpn.protocol.control.tls import make_context
from qubes_miragevpn.runtime.files import directory_lister, profile_reader
from tests.unit.config.texts import CERTIFICATE, KEY, STATIC_KEY_FILE
from tests.unit.config.trust import Made

NOBODY = "nobody-of-that-name"
WITHIN = 3.0  # seconds; a run takes ten milliseconds
FILES = {
    "ca.crt": CERTIFICATE,
    "own.crt": CERTIFICATE,
    "own.key": KEY,
    "ta.key": STATIC_KEY_FILE,
    "login": "alice\nword\n",
    "list.pem": Made("example").revoke(5),
    "more.conf": "verb 2\n",
}
CLIENT = "client\ndev tun\nremote 192.0.2.1\nca ca.crt\nauth-user-pass login\nremote-cert-tls server\n"
SERVER = (
    "server 10.8.0.0 255.255.255.0\ndev tun\ntopology subnet\nkeepalive 10 60\nca ca.crt\ncert own.crt\nkey own.key\n"
    "dh none\nsetenv opt allow-plain-tls\n"
)
# The static key mode; the consent that we want is an option of newer versions, which this one is told to pass over.
STATIC = (
    "dev tun\nsecret ta.key 0\ncipher AES-256-CBC\nifconfig 10.1.0.2 10.1.0.1\nremote 192.0.2.1\n"
    "setenv opt allow-deprecated-insecure-static-crypto\n"
)


NOT_JUDGED = frozenset(
    {
        "daemon", "inetd", "log", "log-append", "syslog", "user", "group", "writepid", "chroot", "cd", "setcon",
        "mktun",
        "rmtun", "genkey", "help", "version", "test-crypto", "show-ciphers", "show-digests", "show-tls",
        "show-engines", "show-groups", "show-curves", "show-gateway", "show-pkcs11-ids", "management", "nice", "mlock",
        "engine", "providers", "plugin", "config", "gremlin", "status", "replay-persist", "tmp-dir", "connection",
    }
)  # fmt: skip
"""What makes openvpn do something instead of judging: leave for the background, write somewhere, show something."""


@dataclass(frozen=True)
class Verdicts:
    """Whether each takes the configuration, and what each said."""

    openvpn: bool
    ours: bool
    openvpn_said: str
    we_said: str


def write_files(folder: Path) -> None:
    """The files that the configurations name."""
    for name, content in FILES.items():
        path = folder / name
        path.write_text(content)
        path.chmod(0o600)


def judge(text: bytes, folder: Path, *, server: bool = False) -> Verdicts:
    """Ask both about `text`, which lies in `folder`."""
    file = folder / "judged.conf"
    file.write_bytes(text)
    command = ["openvpn", "--config", str(file), "--user", NOBODY]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=WITHIN, check=False, start_new_session=True,
        )  # fmt: skip
        said, took = done.stdout.decode("utf-8", "replace"), NOBODY.encode() in done.stdout
        assert took or done.returncode != 0, (text, said)
    except subprocess.TimeoutExpired:  # it asks for a password, which nobody will type: the options were taken
        said, took = "", True
    reader = profile_reader(folder, confined=False)
    surroundings = Surroundings(list_directory=directory_lister(folder, confined=False), around=True)
    examine: Any = examine_server if server else examine_static if looks_static(text) else examine_client
    examined = examine(text, file="judged.conf", read_file=reader, surroundings=surroundings)
    errors = [*examined.errors]
    if examined.config is not None and not isinstance(examined.config, StaticConfig):
        common = examined.config.common
        try:
            make_context(common.identity, common.peer, common.tls, common.choices, server=server)
        except ConfigError as error:
            errors.append(error)
    theirs = [line for line in said.splitlines() if "error" in line.lower() or "must" in line]
    return Verdicts(took, not errors, " / ".join(theirs)[-300:], str(errors[0]) if errors else "")
