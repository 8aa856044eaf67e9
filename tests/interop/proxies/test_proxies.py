# SPDX-License-Identifier: BSD-2-Clause
"""Our client, a proxy of the distribution's, and openvpn behind it, where nothing else leads.

    client namespace                     server namespace
    +---------------------+     veth     +-------------------------------------------+
    | our client          |--------------| proxy on 192.0.2.1                        |
    | no way to 198.51... |              |   '--> openvpn on 198.51.100.1 (lo) :1194 |
    +---------------------+              +-------------------------------------------+
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from tests.interop.conftest import Bench
from tests.interop.login.desk import Person
from tests.interop.netns import SERVER_WIRE, run
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config
from tests.interop.proxies.programs import PASSWORD, PORTS, USER, running
from tests.interop.test_refusals import ONCE
from tests.interop.traffic import MEGABYTE

pytestmark = pytest.mark.needs_proxies

HIDDEN = "198.51.100.1"


@dataclass(frozen=True)
class Row:
    """One proxy: `login` is what it wants, `line` how the profile names it, `proto` what goes through."""

    program: str
    login: str
    line: str
    proto: str = "tcp"
    password: str = PASSWORD
    refused: str = ""  # what the client must say instead of connecting

    def __str__(self) -> str:
        return "-".join(filter(None, (self.program, self.login or "open", self.proto, "refused" * bool(self.refused))))


HTTP = f"http-proxy {SERVER_WIRE} {{port}}"
SOCKS = f"socks-proxy {SERVER_WIRE} {{port}}"
ROWS = [
    Row("tinyproxy", "", HTTP),
    Row("tinyproxy", "basic", f"{HTTP} login basic", password="opensesame"),
    Row("squid", "basic", f"{HTTP} auto"),
    Row("squid", "digest", f"{HTTP} auto-nct"),
    Row("danted", "", SOCKS),
    Row("danted", "", SOCKS, proto="udp"),
    Row("danted", "password", f"{SOCKS} login"),
    Row("danted", "password", f"{SOCKS} login", proto="udp"),
]
REFUSED = [
    Row("squid", "digest", f"{HTTP} auto", password="wrong", refused="the proxy refused user name and password"),
    Row("squid", "basic", f"{HTTP} auto-nct", refused="wants a login by basic; the profile allows digest"),
    Row("squid", "digest", HTTP, password="", refused=r"wants user name and password \(by digest\)"),
    Row("danted", "password", f"{SOCKS} login", "udp", "wrong", "the proxy refused user name and password"),
]


def _lines(row: Row) -> tuple[str, ...]:
    lines = [row.line.format(port=PORTS[row.program])]
    if row.program == "squid" and row.password:
        lines.append(f"<http-proxy-user-pass>\n{USER}\n{row.password}\n</http-proxy-user-pass>")
    return tuple(lines)


def _prepare(bench: Bench, row: Row, *more: str) -> str:
    """Start the server where only the proxy reaches it; return the client's configuration."""
    run("ip", "-n", bench.wire.server.name, "address", "add", f"{HIDDEN}/32", "dev", "lo")
    (bench.folder / "login").write_text(f"{USER}\n{row.password}\n", encoding="ascii")
    case = Case(proto=row.proto, wrap="tls-crypt", client_lines=(*_lines(row), *more))
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN) + f"local {HIDDEN}\n")
    config = client_config(case, bench.pki, OURS)
    return config.replace(f"remote {SERVER_WIRE} ", f"remote {HIDDEN} ")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_through_a_proxy(bench: Bench, row: Row) -> None:
    config = _prepare(bench, row)
    with running(row.program, row.login, bench.wire.server, bench.folder / "proxy"):
        client = bench.client(OURS, config)
        client.wait_up()
        bench.exchange(MEGABYTE)
        assert PASSWORD not in client.log
        assert client.stop() == ExitCode.OK


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_refused_by_a_proxy(bench: Bench, row: Row) -> None:
    config = _prepare(bench, row, *ONCE)
    with running(row.program, row.login, bench.wire.server, bench.folder / "proxy"):
        client = bench.client(OURS, config)
        assert client.wait_exit() == ExitCode.CONNECTION
        client.must_have_said(row.refused)


ASKED = [
    Row("squid", "basic", f"{HTTP} auto", password=""),
    Row("danted", "password", f"{SOCKS} stdin", proto="udp", password=""),
]


@pytest.mark.parametrize("row", ASKED, ids=str)
def test_the_user_is_asked_for_the_proxy(bench: Bench, row: Row) -> None:
    """A wrong password first, the right one then, which is remembered when the connection begins anew."""
    config = _prepare(bench, row, "auth-retry interact")
    with running(row.program, row.login, bench.wire.server, bench.folder / "proxy"):
        person = Person(bench, config)
        for number, password in enumerate(("wrong", PASSWORD), 1):
            person.client.wait_log(f"(?s)(User name for the (HTTP|SOCKS) proxy {SERVER_WIRE} port .*){{{number}}}")
            person.type("User name for", USER)
            person.client.wait_log(f"(?s)(Password for the .*){{{number}}}")
            person.type("Password for", password)
        person.client.wait_up()
        bench.exchange(100_000)
        person.client.process.send_signal(signal.SIGUSR1)
        person.client.wait_log("(?s)up: .*up: ")
        assert person.client.log.count("Password for") == 2
        assert PASSWORD not in person.client.log and "wrong" not in person.client.log
        assert person.client.stop() == ExitCode.OK
        person.close()


def test_nobody_is_there_to_be_asked(bench: Bench) -> None:
    row = Row("squid", "basic", f"{HTTP} auto", password="")
    config = _prepare(bench, row)
    with running(row.program, row.login, bench.wire.server, bench.folder / "proxy"):
        client = bench.client(OURS, config)
        assert client.wait_exit() == ExitCode.AUTH
        client.must_have_said(f"user name and password are needed for the HTTP proxy {SERVER_WIRE} port 3128")


def test_the_end_of_the_relay_ends_the_attempt_at_once(bench: Bench) -> None:
    """The proxy ends under a working tunnel over UDP, and comes back: the client is up again without a timeout."""
    row = Row("danted", "", SOCKS, proto="udp")
    config = _prepare(bench, row, "connect-retry 1 1")
    with running(row.program, row.login, bench.wire.server, bench.folder / "proxy"):
        client = bench.client(OURS, config)
        client.wait_up()
    client.wait_log("the proxy ended the association")
    with running(row.program, row.login, bench.wire.server, bench.folder / "again"):
        client.wait_log("(?s)up: .*up: ")
        bench.exchange(100_000)
