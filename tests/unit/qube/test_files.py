# SPDX-License-Identifier: BSD-2-Clause
"""Settings and resolv.conf on disk."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import ConfigError, SystemRefused
from qubes_miragevpn.config.model import Dns
from qubes_miragevpn.qube import dns
from qubes_miragevpn.qube.dns import ResolvConf, choose
from qubes_miragevpn.qube.settings import _PARSERS, Settings, control_socket, load


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
        ("fallback_resolvers = ::1\n", "fallback_resolvers"),
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


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(resolv_conf=tmp_path / "resolv.conf", firewall_unit="")


R1, R2, R3 = (IPv4Address(f"10.8.0.{n}") for n in (1, 2, 3))


def test_choosing_resolvers(caplog: pytest.LogCaptureFixture) -> None:
    six = IPv6Address("2001:db8::53")
    assert choose(Dns((R1, six, R1, R2, R3)), (R3,)) == (R1, R2)
    assert choose(Dns((six,)), (R3,)) == (R3,)
    assert choose(Dns(), ()) == ()
    assert choose(Dns((IPv4Address("10.137.0.9"), IPv4Address("127.0.0.1"))), ()) == ()
    assert "10.137.0.9 refused" in caplog.text


def test_resolv_conf(settings: Settings) -> None:
    path = settings.resolv_conf
    path.write_text("nameserver 10.139.1.1\n")
    file = ResolvConf(path, "")
    asyncio.run(file.write("vpn0", (R1, R2)))
    assert path.read_text() == f"{dns.HEADER}nameserver 10.8.0.1\nnameserver 10.8.0.2\n"
    assert path.stat().st_mode & 0o777 == 0o644
    asyncio.run(file.write("vpn0", (R3,)))
    file.restore("vpn0")
    assert path.read_text() == "nameserver 10.139.1.1\n"
    path.write_text("nameserver 192.0.2.1\n")  # somebody else wrote: it is theirs
    file.restore("vpn0")
    assert path.read_text() == "nameserver 192.0.2.1\n"
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


def test_resolv_conf_of_several_tunnels(settings: Settings) -> None:
    """It names the resolvers of all that are open; Qubes' rewriting it is mended while one is."""
    path = settings.resolv_conf
    path.write_text("nameserver 10.139.1.1\n")
    file = ResolvConf(path, "")
    asyncio.run(file.mend())
    assert path.read_text() == "nameserver 10.139.1.1\n"
    asyncio.run(file.write("vpn0", (R1, R2)))
    asyncio.run(file.write("vpn1", (R2, R3)))
    both = f"{dns.HEADER}nameserver 10.8.0.1\nnameserver 10.8.0.2\nnameserver 10.8.0.3\n"
    assert path.read_text() == both
    path.write_text("nameserver 10.139.1.2\n")
    asyncio.run(file.mend())
    assert path.read_text() == both
    file.restore("vpn0")
    assert path.read_text() == f"{dns.HEADER}nameserver 10.8.0.2\nnameserver 10.8.0.3\n"
    file.restore("vpn1")
    file.restore("vpn1")
    assert path.read_text() == "nameserver 10.139.1.2\n"


def test_resolv_conf_of_a_killed_service(settings: Settings) -> None:
    settings.resolv_conf.write_text(f"{dns.HEADER}nameserver 10.8.0.1\n")
    ResolvConf(settings.resolv_conf, "").restore()
    assert settings.resolv_conf.read_text() == "nameserver 10.139.1.1\nnameserver 10.139.1.2\n"


def test_a_link_to_the_stub_is_replaced(settings: Settings, tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.write_text("nameserver 127.0.0.53\n")
    settings.resolv_conf.symlink_to(stub)
    asyncio.run(ResolvConf(settings.resolv_conf, "").write("vpn0", (R1,)))
    assert not settings.resolv_conf.is_symlink() and stub.read_text() == "nameserver 127.0.0.53\n"


def test_qubes_firewall_is_reloaded_once_for_each_change(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where it is active; if it does not come back, the tunnel must not open."""
    calls: list[str] = []
    codes = {"is-active": 0, "try-reload-or-restart": 0}

    async def systemctl(*arguments: str) -> int:
        calls.append(arguments[0])
        return codes[arguments[0]]

    monkeypatch.setattr(dns, "_systemctl", systemctl)
    monkeypatch.setattr(dns.os.path, "isdir", lambda path: True)
    file = ResolvConf(settings.resolv_conf, "qubes-firewall.service")

    async def play() -> None:
        await file.write("vpn0", (R1,))
        await file.write("vpn0", (R1,))
        assert calls == ["is-active", "try-reload-or-restart"]
        codes["try-reload-or-restart"] = 1
        with pytest.raises(SystemRefused):
            await file.write("vpn0", (R2,))
        with pytest.raises(SystemRefused):
            await file.write("vpn0", (R2,))
        codes["is-active"] = 3
        await file.write("vpn0", (R2,))

    asyncio.run(play())
