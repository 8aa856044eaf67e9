# SPDX-License-Identifier: BSD-2-Clause
"""The two VPN providers, A by UDP with tls-crypt, B by TCP with tls-auth: our own server, or the system's openvpn.

Each stands in its namespace with a public address, NATs its clients and runs a resolver on its tunnel address. Keys and
certificates are made anew for every lab. The profiles are what such a provider would mail to a customer: one file,
everything inline.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tests.interop.pki import Authority, static_key
from tests.lab.network import Lab
from tests.lab.places import SITE_A, SITE_B, Site
from tests.lab.qube import LabError, Qube

OWN, OPENVPN = "own", "openvpn"


@dataclass(frozen=True)
class Offer:
    """What one provider runs: its place, transport and control-channel protection."""

    site: Site
    host: str
    proto: str
    port: int
    wrap: str

    @property
    def profile(self) -> str:
        """The name of its profile in sys-vpn."""
        return self.site.name


OFFERS = (
    Offer(SITE_A, "a.vpn.lab", "udp", 1194, "tls-crypt"),
    Offer(SITE_B, "b.vpn.lab", "tcp", 443, "tls-auth"),
)


def _inline(name: str, text: str) -> str:
    return f"<{name}>\n{text.strip()}\n</{name}>\n"


class Provider:
    """One provider's server; `start`, `kill` and `stop` it as often as wanted."""

    def __init__(self, lab: Lab, qube: Qube, offer: Offer, kind: str) -> None:
        self.qube, self.offer, self.kind = qube, offer, kind
        self.log_file = lab.folder / f"{offer.profile}.log"
        self.config = lab.folder / f"{offer.profile}.conf"
        self.program = [sys.executable, "-m", "qubes_miragevpn"]  # our own server, or one that tests have changed
        self.process: subprocess.Popen[bytes] | None = None
        self._authority = Authority(f"{offer.profile} CA")
        self._ca, self._static = self._authority.certificate, static_key()
        self.extra = ""  # lines of the server's configuration that tests add before `renew`
        self.renew()
        client = self._authority.issue("customer", "client")
        self.profile_text = self._profile_text(client.certificate, client.key)

    def renew(self, age: timedelta = timedelta(hours=1)) -> None:
        """Give the server another certificate; with a negative `age` it is not valid yet. For the next start."""
        server = self._authority.issue(self.offer.host, "server", age=age)
        self.config.write_text(self._server_text(server.certificate, server.key) + self.extra)
        self.config.chmod(0o600)

    def _material(self, certificate: str, key: str) -> str:
        return _inline("ca", self._ca) + _inline("cert", certificate) + _inline("key", key)

    def _wrap(self, direction: int) -> str:
        direction_line = f"key-direction {direction}\n" if self.offer.wrap == "tls-auth" else ""
        return direction_line + _inline(self.offer.wrap, self._static)

    def _server_text(self, certificate: str, key: str) -> str:
        offer = self.offer
        return f"""\
server {offer.site.tunnel}.0 255.255.255.0
topology subnet
dev tun0
proto {"udp4" if offer.proto == "udp" else "tcp4-server"}
port {offer.port}
dh none
keepalive 1 4
push "redirect-gateway def1"
push "dhcp-option DNS {offer.site.resolver}"
remote-cert-tls client
duplicate-cn
verb 3
{self._material(certificate, key)}{self._wrap(0)}{"disable-dco" if self.kind == OPENVPN else ""}
"""

    def _profile_text(self, certificate: str, key: str) -> str:
        offer = self.offer
        return f"""\
client
dev tun
remote {offer.host} {offer.port} {"udp" if offer.proto == "udp" else "tcp-client"}
nobind
connect-retry 1 2
connect-timeout 3
remote-cert-tls server
verify-x509-name {offer.host} name
{"explicit-exit-notify 1" if offer.proto == "udp" else ""}
{self._material(certificate, key)}{self._wrap(1)}"""

    @property
    def log(self) -> str:
        """What the server has said."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def launch(self) -> None:
        """Start the server; `wait_ready` must follow."""
        config = str(self.config)
        command = [*self.program, "server", config]
        if self.kind == OPENVPN:
            command = ["openvpn", "--config", config]
        with self.log_file.open("ab") as log:
            self.process = self.qube.popen(command, stdout=log, stderr=subprocess.STDOUT)

    def wait_ready(self, within: float = 40) -> None:
        """Return when the server listens; raises `LabError` with the end of its log when it does not."""
        assert self.process is not None
        deadline = time.monotonic() + within
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"{self.offer.profile} ({self.kind}) does not run:\n{self.log[-2000:]}")
            time.sleep(0.02)

    def start(self) -> None:
        """Start the server and wait for it."""
        self.launch()
        self.wait_ready()

    def _listens(self) -> bool:
        """True when the port is bound and the resolver's address is there."""
        offer = self.offer
        table, listening = ("udp", ("07",)) if offer.proto == "udp" else ("tcp", ("0A",))
        wanted = f":{offer.port:04X}"

        def look() -> bool:
            lines = [line.split() for name in (table, table + "6") for line in _lines(f"/proc/thread-self/net/{name}")]
            bound = any(line[1].endswith(wanted) and line[3] in listening for line in lines)
            return bound and offer.site.resolver in Path("/proc/thread-self/net/fib_trie").read_text()

        return self.qube.inside(look)

    def kill(self) -> None:
        """The server is gone from one moment to the next, without a word to its clients."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()[1:]
    except OSError:
        return []


class Providers:
    """Both providers of a lab; `kind` is OWN or OPENVPN."""

    def __init__(self, lab: Lab, kind: str = OWN) -> None:
        if kind not in (OWN, OPENVPN):
            raise LabError(f"a provider is {OWN} or {OPENVPN}, not {kind}")
        if kind == OPENVPN and shutil.which("openvpn", path="/usr/sbin:/usr/bin:/sbin") is None:
            raise LabError("openvpn is not installed (package openvpn), or leave PROVIDER=openvpn out")
        self.kind = kind
        self.a = Provider(lab, lab.provider_a, OFFERS[0], kind)
        self.b = Provider(lab, lab.provider_b, OFFERS[1], kind)

    def start(self) -> None:
        """Start both and wait until they listen."""
        self.a.launch()
        self.b.launch()
        self.a.wait_ready()
        self.b.wait_ready()
