# SPDX-License-Identifier: BSD-2-Clause
"""The service as its unit's user, with the one capability: everything works, and nothing is there beyond that."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.places import SITE_A, SITE_B
from tests.lab.scene import Scene, scene
from tests.lab.service import identity

USER = "qubes-miragevpn"
NET_ADMIN = 1 << 12
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def live() -> Iterator[Scene]:
    """One scene with profile A connected, whose credentials are set while the service runs."""
    with scene() as made:
        made.providers.b.start()
        made.connected()
        made.lab.vpn.run("miragevpn", "credentials", SITE_A.name, text=f"me\n{PASSWORD}\n")
        yield made


def _status(live: Scene) -> dict[str, str]:
    assert live.service.process is not None
    lines = Path(f"/proc/{live.service.process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_one_capability_and_a_user_of_its_own(live: Scene) -> None:
    """Nothing of root's is left but the one power; the group qubes, whose members may become root, is not its own."""
    status = _status(live)
    for key in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[key], 16) == NET_ADMIN, key
    assert status["NoNewPrivs"] == "1"
    ids = live.lab.vpn.run("id", "-u", USER).stdout.strip()
    assert ids != "0" and status["Uid"].split() == [ids] * 4
    assert status["Groups"].split() == [status["Gid"].split()[0]]


def test_what_is_not_its_own_it_can_neither_read_nor_write(live: Scene) -> None:
    """As its user, with its powers: root's files and devices, resolv.conf, its own settings; its store it can."""
    vpn = live.lab.vpn
    vpn.write("/etc/secret", "root's", 0o600)
    for words in ("cat /etc/secret", "cat /etc/shadow", "touch /etc/x", "touch /etc/resolv.conf", "touch /run/x"):
        assert vpn.run(*identity(), "sh", "-c", words, check=False).returncode != 0, words
    assert vpn.run(*identity(), "touch", "/etc/qubes-miragevpn/service.conf", check=False).returncode != 0
    vpn.run(*identity(), "sh", "-c", "cat /etc/qubes-miragevpn/profiles/*.ovpn && touch /etc/qubes-miragevpn/state/x")


def test_a_store_that_root_filled_or_another_number_left(live: Scene) -> None:
    """Root's step before the start makes it the service's, and follows no link out of it."""
    vpn, store = live.lab.vpn, "/etc/qubes-miragevpn"
    vpn.write(f"{store}/profiles/of-root/x.ovpn", "client\n", 0o644)
    vpn.run("chown", "-R", "4711:4711", f"{store}/credentials")
    vpn.run("ln", "-s", "/etc/secret", f"{store}/profiles/link")
    vpn.run("ln", "-s", "/etc/qubes-rpc", f"{store}/settings/folder")
    before = vpn.run("stat", "-c", "%U %a", "/etc/secret", "/etc/qubes-rpc", "/etc/qubes-rpc/miragevpn.Status").stdout
    live.service.stop()
    live.service.start()
    live.must_carry(SITE_A)
    shown = vpn.run("find", store, "-mindepth", "2", "-not", "-type", "l", "-printf", "%u %m %y %P\n").stdout
    assert "of-root/x.ovpn" in shown
    for line in shown.splitlines():
        user, mode, kind = line.split()[:3]
        assert (user, mode) == (USER, "700" if kind == "d" else "600"), line
    assert vpn.run("stat", "-c", "%U %a", store).stdout == "root 750\n"
    assert (
        before
        == vpn.run("stat", "-c", "%U %a", "/etc/secret", "/etc/qubes-rpc", "/etc/qubes-rpc/miragevpn.Status").stdout
    )
    vpn.run("rm", "-r", f"{store}/profiles/of-root", f"{store}/profiles/link", f"{store}/settings/folder")


def test_only_the_service_hands_resolvers_in(live: Scene) -> None:
    """Nobody else may connect to root's helper; and it takes nothing but addresses of resolvers."""
    vpn = live.lab.vpn
    program = (
        "import socket, sys\n"
        "link = socket.socket(socket.AF_UNIX); link.connect('/run/qubes-miragevpn-dns.sock')\n"
        "link.sendall(sys.argv[1].encode()); link.shutdown(socket.SHUT_WR); print(link.recv(999).decode().strip())"
    )
    before = vpn.path("/etc/resolv.conf").read_text()
    assert SITE_A.resolver in before
    user = ["setpriv", "--reuid", "user", "--regid", "user", "--init-groups"]
    assert vpn.run(*user, sys.executable, "-c", program, "nameserver 9.9.9.9", check=False).returncode != 0
    for text in ("options debug", "nameserver 9.9.9.9; x", "nameserver 127.0.0.1", "nameserver fe80::1%eth0"):
        assert vpn.run(*identity(), sys.executable, "-c", program, text).stdout.startswith("refused: "), text
    assert vpn.path("/etc/resolv.conf").read_text() == before


def test_everything_works_with_it(live: Scene) -> None:
    """Up, down, another provider, a profile taken in and removed, healing of table and rules."""
    assert live.service.call("Switch", SITE_B.name).code == 0
    live.must_carry(SITE_B)
    assert live.service.call("ImportProfile", "x", data=live.providers.a.profile_text.encode()).code == 0
    assert live.service.call("RemoveProfile", "x").code == 0
    live.lab.vpn.run("nft", "delete", "table", "inet", "qubes-miragevpn")
    live.lab.vpn.run("ip", "rule", "flush")
    live.must_carry(SITE_B)
    assert live.service.call("Switch", SITE_A.name).code == 0
    live.must_carry(SITE_A)


def test_secrets_stay_where_they_are(live: Scene) -> None:
    """A password is in its file, for the service's eyes alone; not in a log, an argument, an environment, a reply."""
    assert live.service.process is not None
    proc = Path(f"/proc/{live.service.process.pid}")
    seen = [(proc / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
    seen += live.service.log + [live.service.call(name).output for name in ("Status", "Details", "Profiles")]
    assert not any(word in text for text in seen for word in (PASSWORD, "PRIVATE KEY", "OpenVPN Static key"))
    stored = live.lab.vpn.path(f"/etc/qubes-miragevpn/credentials/{SITE_A.name}")
    assert stored.read_text() == f"me\n{PASSWORD}\n" and stored.stat().st_mode & 0o777 == 0o600
    assert "Max core file size        0                    0" in (proc / "limits").read_text()
