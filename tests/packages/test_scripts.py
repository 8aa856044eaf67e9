# SPDX-License-Identifier: BSD-2-Clause
"""What the packages do when they are installed, upgraded and removed, and that their descriptions agree."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.packages.building import REPOSITORY, package, run

DEBHELPER = re.compile(r"(?s)# Automatically added by dh_.*?# End automatically added section\n")
VERSION = (REPOSITORY / "version").read_text(encoding="ascii").strip()


def scripts(kind: str, folder: Path) -> dict[str, str]:
    """The maintainer scripts as built, by their name, without what debhelper added (the cache of modules)."""
    if kind == "deb":
        run("dpkg-deb", "--control", package("deb"), folder / "control")
        names = ("preinst", "postinst", "prerm", "postrm")
        written = {
            name: (folder / "control" / name).read_text() for name in names if (folder / "control" / name).exists()
        }
        return {name: DEBHELPER.sub("", text) for name, text in written.items()}
    shown = run("rpm", "-qp", "--scripts", package(kind))
    pieces = re.split(r"^(\w+) scriptlet \(using /bin/sh\):\n", shown, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_nothing_opens_and_nothing_closes(kind: str, tmp_path: Path) -> None:
    """No script of ours touches firewall, routes, lockdown or profiles: the barriers outlive the package."""
    found = scripts(kind, tmp_path)
    assert len(found) >= 3
    for name, text in found.items():
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        assert not re.search(r"\bnft\b|\bip (-\d )?(route|rule)|lockdown|ip_forward|/rw\b|\brm\b|rmdir", code), name


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_which_units_are_touched(kind: str, tmp_path: Path) -> None:
    """With a systemctl that writes down what it is told: preset at first, restarted where it ran, at last stopped.

    Before anything starts, the service's user is taken out of the group whose members can become root.
    """
    log = tmp_path / "log"
    fake = tmp_path / "systemctl"
    fake.write_text(f'#!/bin/sh\necho "$*" >>{log}\n')
    fake.chmod(0o755)
    (tmp_path / "gpasswd").write_text(f'#!/bin/sh\necho "gpasswd $*" >>{log}\n exit 3\n')
    (tmp_path / "gpasswd").chmod(0o755)
    found, booted = scripts(kind, tmp_path), str(tmp_path)

    def played(script: str, *arguments: str) -> list[str]:
        text = found[script].replace("/run/systemd/system", booted or str(tmp_path / "not there"))
        text = text.replace("/usr/bin/systemctl", str(fake))
        log.write_text("")
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["sh", "-e", "-c", text, "sh", *arguments], env=environ, check=True)
        return log.read_text().splitlines()

    if kind == "deb":
        first, upgrade = played("postinst", "configure", ""), played("postinst", "configure", "0.0.9")
        before, removal, purge = (
            played("prerm", "upgrade", VERSION),
            played("prerm", "remove"),
            played("postrm", "purge"),
        )
    else:
        first, upgrade = played("postinstall", "1"), played("postinstall", "2") + played("postuninstall", "1")
        before, removal, purge = played("preuninstall", "1"), played("preuninstall", "0"), played("postuninstall", "0")
    no_member, preset = "gpasswd -d qubes-miragevpn qubes", "preset qubes-miragevpn.service"
    assert first == [no_member, preset, "daemon-reload"]
    assert upgrade == [no_member, "daemon-reload", "--no-block try-restart qubes-miragevpn.service"]
    assert before == []
    if kind == "deb":  # it stays enabled until it is purged: a package that comes back is as it was
        assert removal == ["stop qubes-miragevpn.service"]
        assert purge == ["disable qubes-miragevpn.service", "daemon-reload"]
        booted = ""
        assert played("postinst", "configure", "") == [no_member, preset], "a template that is made in a chroot"
    else:
        assert removal == ["--no-reload disable --now qubes-miragevpn.service"]
        assert purge == ["daemon-reload"]


def test_one_version() -> None:
    """The version is the file `version`; Debian wants it in its changelog as well."""
    newest = (REPOSITORY / "debian" / "changelog").read_text(encoding="utf-8").splitlines()[0]
    assert newest.startswith(f"qubes-miragevpn ({VERSION}) ")
    assert run("dpkg-deb", "--field", package("deb"), "Version").strip() == VERSION
    assert run("rpm", "-qp", "--qf", "%{VERSION}", package("rpm")) == VERSION


@pytest.mark.parametrize(
    ("kind", "pyopenssl"), [("deb", "python3-openssl (>= 23)"), ("rpm", "python3-pyOpenSSL >= 23")], ids=["deb", "rpm"]
)
def test_dependencies(kind: str, pyopenssl: str) -> None:
    """They are distributions' packages, and those of Qubes only recommended: the client runs on any Linux."""
    if kind == "deb":
        depends = [each.strip() for each in run("dpkg-deb", "--field", package(kind), "Depends").split(",")]
        weak = run("dpkg-deb", "--field", package(kind), "Recommends")
    else:
        depends = run("rpm", "-qp", "--requires", package(kind)).splitlines()
        weak = run("rpm", "-qp", "--recommends", package(kind))
    assert pyopenssl in depends
    needed = {re.split(r"[ (:]", each)[0] for each in depends}
    assert {"nftables", "python3", "python3-cryptography", "python3-pyroute2"} <= needed
    assert not any("pytun" in each or each.startswith("qubes-") for each in needed)
    assert "qubes-core-agent-networking" in weak and "python3-qubesdb" in weak


def test_the_builder_knows_every_spec() -> None:
    """.qubesbuilder names each spec file and the debian folder."""
    text = (REPOSITORY / ".qubesbuilder").read_text(encoding="ascii")
    named = set(re.findall(r"- (\S+)", text))
    assert named == {"debian"} | {f"rpm_spec/{path.stem}" for path in (REPOSITORY / "rpm_spec").glob("*.spec.in")}
