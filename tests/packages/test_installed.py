# SPDX-License-Identifier: BSD-2-Clause
"""The built package in a clean Debian, from its installation to its purge, with traffic all the while.

sys-vpn of the lab becomes a qube of a template that has nothing but Debian's packages and this one; nothing comes from
PyPI, nor from this clone. The uplink is captured from boot to the end, and an AppVM never stops sending.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from tests.lab.capture import Capture
from tests.lab.network import Lab
from tests.lab.places import SITE_A
from tests.lab.providers import OWN
from tests.lab.qube import REPOSITORY
from tests.lab.scene import Noise, Scene
from tests.lab.service import EARLY_UNIT, PROFILES, unit_values
from tests.packages.building import package
from tests.packages.template import CLEAN, become, dpkg, root

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

OUR_TABLE = ("nft", "--stateless", "list", "table", "inet", "qubes-miragevpn")
ENABLED = "/etc/systemd/system/multi-user.target.wants/qubes-miragevpn.service"
LOCKDOWN = "/usr/lib/qubes-miragevpn/qubes-miragevpn-lockdown"
KEPT = "/run/rw/qubes-firewall.d"  # in the place of /rw/config/qubes-firewall.d
HOOK = "/etc/qubes/qubes-firewall.d/30-qubes-miragevpn"
MODULES = """
import sys, cryptography, OpenSSL, pyroute2, qubes_miragevpn.qube.service
print(*(path for path in (getattr(module, "__file__", None) for module in list(sys.modules.values())) if path))
"""
SUITES = [
    pytest.param("", id="this Debian"),
    pytest.param("trixie", id="Debian 13", marks=pytest.mark.soak),
]


@pytest.fixture(scope="module", params=SUITES)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """sys-vpn booted from a template with the package, as far as where systemd would start the service."""
    template = root(request.param)

    def early(lab: Lab) -> None:
        become(lab.vpn, template)
        dpkg(lab.vpn, "--install", package("deb"))
        for command in unit_values(EARLY_UNIT, "ExecStart"):
            lab.vpn.run(*CLEAN, *shlex.split(command))

    with (
        Lab(early, appvms=("work", "hostile")) as lab,
        Capture(lab) as capture,
        Noise(lab.appvms["hostile"].qube) as noise,
    ):
        yield Scene(lab, capture, noise, OWN)
    assert lab.leftovers() == []


def test_the_life_of_a_package(scene: Scene) -> None:
    """Installed, used, upgraded under way, removed, purged: traffic takes the tunnel or nothing."""
    vpn = scene.lab.vpn
    assert vpn.run(*CLEAN, "dpkg-query", "-W", "-f", "${Status}", "qubes-miragevpn").stdout == "install ok installed"
    assert vpn.path(ENABLED).is_symlink(), "also where no systemd runs, as when a template is made"
    scene.must_be_closed()
    scene.connected()
    _runs_on_debian_alone(scene)

    table = vpn.run(*OUR_TABLE).stdout
    dpkg(vpn, "--install", package("deb"))  # an upgrade; systemd, who would start the service anew, is not here
    assert vpn.run(*OUR_TABLE).stdout == table
    scene.must_heal()
    scene.service.kill()
    scene.service.start()
    scene.must_heal()

    vpn.run("mkdir", "/run/rw")
    vpn.run(*CLEAN, f"MIRAGEVPN_KEPT={KEPT}", LOCKDOWN, "keep")
    dpkg(vpn, "--remove", "qubes-miragevpn")
    assert not vpn.path("/usr/bin/miragevpn").exists()
    assert vpn.path(ENABLED).is_symlink(), "so that it runs when the package comes back"
    scene.service.kill()
    scene.must_be_closed()
    # The next boot of a qube that is still meant to be a VPN qube: what Debian keeps of the package closes it.
    vpn.run("nft", "delete", "table", "inet", "qubes-miragevpn")
    vpn.run(*CLEAN, HOOK)
    assert "policy drop" in vpn.run(*OUR_TABLE).stdout
    scene.must_be_closed()

    stored = sorted(path.name for path in vpn.path(PROFILES).iterdir())
    assert stored
    dpkg(vpn, "--purge", "qubes-miragevpn")
    assert not vpn.path(HOOK).exists() and not vpn.path(ENABLED).is_symlink()
    assert sorted(path.name for path in vpn.path(PROFILES).iterdir()) == stored
    scene.must_be_closed()
    # And of one whose template has lost all of it: what it keeps itself, which qubes-firewall runs as well.
    vpn.run("nft", "delete", "table", "inet", "qubes-miragevpn")
    vpn.run(*CLEAN, f"{KEPT}/30-qubes-miragevpn")
    assert "policy drop" in vpn.run(*OUR_TABLE).stdout
    scene.must_be_closed()


def _runs_on_debian_alone(scene: Scene) -> None:
    """Every file that the running service has mapped or imported is the template's."""
    process = scene.service.process
    assert process is not None and scene.service.state() == "connected"
    assert scene.must_carry(SITE_A) < 12
    vpn = scene.lab.vpn
    maps = vpn.path(f"/proc/{process.pid}/maps").read_text()
    mapped = set(re.findall(r" (/\S+)$", maps, re.MULTILINE))
    assert any("cryptography" in name for name in mapped)
    assert all(name.startswith("/usr/") and not name.startswith("/usr/local/") for name in mapped), mapped
    files = vpn.run(*CLEAN, "/usr/bin/python3", "-I", "-c", MODULES).stdout.split()
    assert any("pyroute2" in name for name in files)
    ours = ("/usr/lib/python3/dist-packages/", "/usr/lib/python3.")
    assert [name for name in files if not name.startswith(ours)] == []
    assert not any(str(REPOSITORY) in name for name in files)
