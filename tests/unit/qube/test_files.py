# SPDX-License-Identifier: BSD-2-Clause
"""Settings and resolv.conf on disk."""

from __future__ import annotations

import asyncio
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import fields
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import ConfigError, SystemRefused
from qubes_miragevpn.config.model import Dns
from qubes_miragevpn.qube.dns import HEADER, MAX_RESOLVERS, ResolvConf, choose
from qubes_miragevpn.qube.settings import _PARSERS, MAX_TUNNELS, Settings, control_socket, load


def conf(tmp_path: Path, text: str, mode: int = 0o644) -> Path:
    path = tmp_path / "service.conf"
    path.write_text(text)
    path.chmod(mode)
    return path


# --- settings ---------------------------------------------------------------------------------------------


def test_every_setting_has_a_parser() -> None:
    assert set(_PARSERS) == {field.name for field in fields(Settings)}


def test_defaults(tmp_path: Path) -> None:
    assert load({}, tmp_path / "none") == Settings()


@pytest.mark.needs_root
def test_file_and_environment(tmp_path: Path) -> None:
    path = conf(tmp_path, "# ours\n\nuplink = eth1\nfallback_resolvers = 9.9.9.9, 1.1.1.1\nretry_max=5\n")
    settings = load({"MIRAGEVPN_UPLINK": "ens5", "MIRAGEVPN_STATE_FILE": "/x/y", "OTHER": "1"}, path)
    assert settings.uplink == "ens5" and settings.state_file == Path("/x/y") and settings.retry_max == 5.0
    assert settings.fallback_resolvers == (IPv4Address("9.9.9.9"), IPv4Address("1.1.1.1"))


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("uplnk = eth0\n", r"service.conf:1: there is no such setting"),
        ("\nuplink\n", r"service.conf:2: a line is `name = value`"),
        ("uplink = vif1.0\n", "uplink interface"),
        ("uplink = a/b\n", "uplink interface"),
        ("profile_dir = profiles\n", "absolute path"),
        ("profile_dir = /etc/../x\n", "absolute path"),
        ("retry_max = soon\n", "could not convert"),
        ("retry_max = nan\n", "between"),
        ("fallback_resolvers = 2001:db8::1%eth0\n", "fallback_resolvers: .* without an interface"),
        ("uplink_resolvers = fe80::1%eth0\n", "without an interface"),
        ("control_group = a b\n", "letters, digits"),
        ("autoconnect = maybe\n", "yes or no"),
        ("x" * 20000, "longer than"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load({}, conf(tmp_path, text))


def test_settings_that_others_may_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belong to root"):
        load({}, conf(tmp_path, "uplink = eth1\n", 0o666))
    with pytest.raises(ConfigError, match="MIRAGEVPN_UPLINK: uplink"):
        load({"MIRAGEVPN_UPLINK": "lo"}, tmp_path / "none")


def test_callers_need_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory is root's alone; a caller is not root."""
    monkeypatch.setattr("qubes_miragevpn.qube.settings._lines", lambda file: 1 / 0)
    assert control_socket({}) == Settings().control_socket
    assert control_socket({"MIRAGEVPN_CONTROL_SOCKET": "/x/y"}) == Path("/x/y")
    with pytest.raises(ConfigError):
        control_socket({"MIRAGEVPN_CONTROL_SOCKET": "relative"})


# --- resolvers --------------------------------------------------------------------------------------------


R1, R2, R3 = (IPv4Address(f"10.8.0.{n}") for n in (1, 2, 3))


def test_choosing_resolvers(caplog: pytest.LogCaptureFixture) -> None:
    six = IPv6Address("2001:db8::53")
    assert choose(Dns((six, R1, R1, R2, R3)), (R3,)) == (R1, R2, R3, six)
    assert choose(Dns((six,)), (R3,)) == (R3, six)
    assert choose(Dns((R1,)), (six, R3)) == (R1, six)
    assert choose(Dns(), (six, IPv4Address("10.139.1.1"), R3, R3)) == (R3, six), "nor are they the owner's to give"
    assert choose(Dns((IPv6Address("fd09:24ef:4179::a8b:1"),)), ()) == ()
    many = tuple(IPv4Address(f"10.8.1.{number}") for number in range(9))
    assert choose(Dns(many), ()) == many[:4]
    assert choose(Dns(), ()) == ()
    assert choose(Dns((IPv4Address("10.137.0.9"), IPv4Address("127.0.0.1"))), ()) == ()
    assert "10.137.0.9 refused" in caplog.text


class Helper:
    """The helper's socket with root's program behind it, on files of the test's; `refusing`: its answer instead."""

    def __init__(self, folder: Path) -> None:
        self.path, self.socket = folder / "resolv.conf", folder / "helper.sock"
        self.state = folder / "state"
        self.state.mkdir()
        self.asked: list[bytes] = []
        self.refusing = b""

    def play(self, story: Callable[[ResolvConf], Coroutine[Any, Any, None]]) -> None:
        """Run `story` with a service's end of it."""

        async def run() -> None:
            server = await asyncio.start_unix_server(self._serve, self.socket)
            async with server:
                await story(ResolvConf(self.path, self.socket))

        asyncio.run(run())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        self.asked.append(asked)
        answer = self.refusing or PROGRAM["main"](self.environ, asked).encode() + b"\n"
        writer.write(answer)
        writer.close()

    @property
    def environ(self) -> dict[str, str]:
        return {"MIRAGEVPN_RESOLV_CONF": str(self.path), "RUNTIME_DIRECTORY": str(self.state)}


PROGRAM = runpy.run_path(str(Path(__file__).parents[3] / "install" / "vm" / "qubes-miragevpn-dns.py"))


@pytest.fixture
def helper(tmp_path: Path) -> Helper:
    return Helper(tmp_path)


def test_resolv_conf(helper: Helper) -> None:
    path = helper.path
    path.write_text("nameserver 10.139.1.1\n")

    async def play(file: ResolvConf) -> None:
        await file.write("vpn0", (R1, IPv6Address("2001:db8::53")))
        assert path.read_bytes() == HEADER + b"nameserver 10.8.0.1\nnameserver 2001:db8::53\n"
        assert path.stat().st_mode & 0o777 == 0o644
        await file.write("vpn0", (R3,))
        await file.write("vpn0", (R3,))
        assert len(helper.asked) == 2, "what is so already is not asked for again"
        await file.restore("vpn0")
        assert path.read_text() == "nameserver 10.139.1.1\n"
        path.write_text("nameserver 192.0.2.1\n")  # somebody else wrote: it is theirs
        await file.restore("vpn0")
        assert path.read_text() == "nameserver 192.0.2.1\n"

    helper.play(play)
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


def test_resolv_conf_of_several_tunnels(helper: Helper) -> None:
    """It names the resolvers of all that are open; Qubes' rewriting it is mended while one is."""
    path = helper.path
    path.write_text("nameserver 10.139.1.1\n")

    async def play(file: ResolvConf) -> None:
        await file.mend()
        assert path.read_text() == "nameserver 10.139.1.1\n"
        await file.write("vpn0", (R1, R2))
        await file.write("vpn1", (R2, R3))
        both = HEADER + b"nameserver 10.8.0.1\nnameserver 10.8.0.2\nnameserver 10.8.0.3\n"
        assert path.read_bytes() == both
        path.write_text("nameserver 10.139.1.2\n")
        await file.mend()
        assert path.read_bytes() == both
        await file.restore("vpn0")
        assert path.read_bytes() == HEADER + b"nameserver 10.8.0.2\nnameserver 10.8.0.3\n"
        await file.write("vpn0", (R1,))
        names = [line.split()[1] for line in path.read_text().splitlines()[1:]]
        assert names == ["10.8.0.1", "10.8.0.2", "10.8.0.3"], "whoever asks by name asks vpn0's"
        await file.restore("vpn0")
        await file.write("vpn1", ())
        assert path.read_text() == "nameserver 10.139.1.2\n"
        await file.restore("vpn1")
        assert path.read_text() == "nameserver 10.139.1.2\n"

    helper.play(play)


def test_resolv_conf_of_a_killed_service(helper: Helper) -> None:
    helper.path.write_bytes(HEADER + b"nameserver 10.8.0.1\n")
    helper.play(lambda file: file.restore())
    assert helper.path.read_text() == "nameserver 10.139.1.1\nnameserver 10.139.1.2\n"


def test_a_link_to_the_stub_is_replaced(helper: Helper, tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.write_text("nameserver 127.0.0.53\n")
    helper.path.symlink_to(stub)
    helper.play(lambda file: file.write("vpn0", (R1,)))
    assert not helper.path.is_symlink() and stub.read_text() == "nameserver 127.0.0.53\n"


def test_what_the_helper_does_not_do_keeps_the_tunnel_closed(helper: Helper, tmp_path: Path) -> None:
    """Refused, silent, not there: the tunnel must not open; what failed once is asked for again."""

    async def play(file: ResolvConf) -> None:
        for helper.refusing, words in ((b"refused: the disk is full\n", "the disk is full"), (b"\n", "no answer")):
            for _ in range(2):
                with pytest.raises(SystemRefused, match=words):
                    await file.write("vpn0", (R1,))
        assert len(helper.asked) == 4
        with pytest.raises(SystemRefused, match=r"qubes-miragevpn-dns\.socket"):
            await ResolvConf(helper.path, tmp_path / "none").write("vpn0", (R1,))

    helper.play(play)


def test_mending_waits_for_nobody(helper: Helper) -> None:
    """While tunnels come up one after the other the barriers are looked after, and the watchdog is fed."""

    async def play(file: ResolvConf) -> None:
        await file.write("vpn0", (R1,))
        helper.path.write_text("nameserver 10.139.1.1\n")
        async with asyncio.timeout(20), file._lock:
            await file.mend()
        assert len(helper.asked) == 1
        await file.mend()
        assert len(helper.asked) == 2 and helper.path.read_bytes() == HEADER + b"nameserver 10.8.0.1\n"

    helper.play(play)


# --- root's helper ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "untrusted",
    [
        b"nameserver",
        b"nameserver ",
        b"nameserver 1.2.3",
        b"nameserver 1.2.3.4 ",
        b"nameserver  1.2.3.4",
        b"nameserver 1.2.3.4\r",
        b"nameserver 1.2.3.4\noptions debug",
        b"search evil.example",
        b"# nameserver 1.2.3.4",
        b"nameserver 1.2.3.4 # x",
        b"nameserver 1.2.3.4\0",
        b"nameserver \xff",
        b"nameserver fe80::1%eth0",
        b"nameserver 2001:db8::1%x",
        b"nameserver 127.0.0.1",
        b"nameserver 0.0.0.0",
        b"nameserver ::1",
        b"nameserver 224.0.0.251",
        b"".join(b"nameserver 10.0.0.%d\n" % number for number in range(129)),
        b"\n" * 10000,
    ],
)
def test_the_helper_refuses(helper: Helper, untrusted: bytes) -> None:
    """Nothing is written, and the answer says nothing of what was sent."""
    helper.path.write_text("theirs\n")
    answer = PROGRAM["main"](helper.environ, untrusted)
    assert answer.startswith("refused: ") and helper.path.read_text() == "theirs\n"


def test_the_helper_writes_what_it_understood(helper: Helper) -> None:
    assert (
        PROGRAM["main"](helper.environ, b"nameserver 2001:DB8:0::1\n\nnameserver 9.9.9.9\nnameserver 9.9.9.9") == "ok"
    )
    assert helper.path.read_bytes() == HEADER + b"nameserver 2001:db8::1\nnameserver 9.9.9.9\n"
    assert PROGRAM["HEADER"] == HEADER


def test_the_helper_takes_the_resolvers_of_as_many_tunnels_as_there_may_be(helper: Helper) -> None:
    many = [
        b"nameserver %b" % (template % number)
        for template in (b"10.200.0.%d", b"2001:db8:1111:2222:3333:4444:5555:1%02x")
        for number in range(MAX_TUNNELS * MAX_RESOLVERS)
    ]
    assert PROGRAM["main"](helper.environ, b"\n".join(many)) == "ok"
    assert helper.path.read_bytes().count(b"nameserver ") == len(many)


@pytest.mark.parametrize("there", [True, False])
def test_the_helper_as_a_program(helper: Helper, there: bool) -> None:
    """On a socket, as systemd starts it; a service that was killed meanwhile gets no answer, and nobody a traceback."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        program = Path(__file__).parents[3] / "install" / "vm" / "qubes-miragevpn-dns.py"
        process = subprocess.Popen(
            [sys.executable, "-IS", str(program)], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
            env=helper.environ,
        )  # fmt: skip
        theirs.close()
        ours.sendall(b"nameserver 10.8.0.1\n")
        ours.shutdown(socket.SHUT_WR)
        if not there:
            ours.close()
        assert process.communicate(timeout=20)[1] == b"" and process.returncode == 0
        assert not there or ours.recv(100) == b"ok\n"
    assert helper.path.read_bytes() == HEADER + b"nameserver 10.8.0.1\n"


def test_qubes_firewall_is_reloaded_where_it_is_active(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it does not come back, the answer is no; nothing is reloaded when the old file is put back."""
    calls: list[str] = []
    codes = {"is-active": 0, "reset-failed": 0, "try-reload-or-restart": 0}

    def systemctl(*arguments: str) -> int:
        calls.append(arguments[0])
        return codes[arguments[0]]

    space = PROGRAM["main"].__globals__
    monkeypatch.setitem(space, "systemctl", systemctl)
    monkeypatch.setattr(os.path, "isdir", lambda path: True)

    def ask(text: bytes) -> str:
        return str(space["main"](helper.environ, text))

    assert ask(b"nameserver 10.8.0.1\n") == "ok"
    assert calls == ["is-active", "reset-failed", "try-reload-or-restart"], "systemd's limit of starts counts anew"
    assert ask(b"") == "ok" and len(calls) == 3
    codes["try-reload-or-restart"] = 1
    assert ask(b"nameserver 10.8.0.1\n") == "refused: qubes-firewall.service could not be reloaded"
    codes["is-active"] = 3
    assert ask(b"nameserver 10.8.0.1\n") == "ok"
