# SPDX-License-Identifier: BSD-2-Clause
"""What the packages put where, with which mode and owner; the deb and the rpm of the VM bring the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.packages.building import REPOSITORY, Entry, entries, package, run, tracked

UNITS = REPOSITORY / "install" / "vm" / "systemd"

VM = """
drwxr-x--- root root /etc/qubes-miragevpn/
drwx------ root root /etc/qubes-miragevpn/credentials/
drwx------ root root /etc/qubes-miragevpn/profiles/
drwx------ root root /etc/qubes-miragevpn/settings/
drwx------ root root /etc/qubes-miragevpn/state/
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.Answer
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.Assign
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.Connect
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.Details
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.Disconnect
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.Events
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.ImportProfile
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.Log
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.Profiles
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.RemoveProfile
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.RemoveTunnel
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.SetCredentials
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.Status
-rwxr-xr-x root root /etc/qubes-rpc/miragevpn.Switch
-rwxr-xr-x root root /etc/qubes/post-install.d/30-qubes-miragevpn.sh
-rwxr-xr-x root root /etc/qubes/qubes-firewall.d/30-qubes-miragevpn
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.Answer
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.Assign
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.Connect
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.Details
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.Disconnect
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.Events
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.ImportProfile
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.Log
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.Profiles
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.RemoveProfile
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.RemoveTunnel
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.SetCredentials
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.Status
-rw-r--r-- root root /etc/qubes/rpc-config/miragevpn.Switch
-rwxr-xr-x root root /etc/qubes/suspend-post.d/30-qubes-miragevpn.sh
-rwxr-xr-x root root /usr/bin/miragevpn
-rwxr-xr-x root root /usr/bin/qvm-miragevpn
-rw-r--r-- root root /usr/lib/qubes-bind-dirs.d/30_qubes-miragevpn.conf
drwxr-xr-x root root /usr/lib/qubes-miragevpn/
drwxr-xr-x root root /usr/lib/qubes-miragevpn/nft/
-rw-r--r-- root root /usr/lib/qubes-miragevpn/nft/qubes-miragevpn-lockdown.nft
-rwxr-xr-x root root /usr/lib/qubes-miragevpn/qubes-miragevpn-dns
-rwxr-xr-x root root /usr/lib/qubes-miragevpn/qubes-miragevpn-lockdown
-rw-r--r-- root root /usr/lib/systemd/system-preset/75-qubes-miragevpn.preset
-rw-r--r-- root root /usr/lib/systemd/system/qubes-miragevpn-dns.socket
-rw-r--r-- root root /usr/lib/systemd/system/qubes-miragevpn-dns@.service
-rw-r--r-- root root /usr/lib/systemd/system/qubes-miragevpn-lockdown.service
-rw-r--r-- root root /usr/lib/systemd/system/qubes-miragevpn.service
drwxr-xr-x root root /usr/lib/systemd/system/qubes-network-uplink@.service.d/
-rw-r--r-- root root /usr/lib/systemd/system/qubes-network-uplink@.service.d/30-qubes-miragevpn.conf
drwxr-xr-x root root /usr/lib/systemd/system/qubes-network.service.d/
-rw-r--r-- root root /usr/lib/systemd/system/qubes-network.service.d/30-qubes-miragevpn.conf
-rw-r--r-- root root /usr/lib/sysusers.d/qubes-miragevpn.conf
-rw-r--r-- root root /usr/lib/tmpfiles.d/qubes-miragevpn.conf
-rw-r--r-- root root /usr/share/bash-completion/completions/miragevpn
-rw-r--r-- root root /usr/share/bash-completion/completions/qvm-miragevpn
-rw-r--r-- root root /usr/share/man/man1/miragevpn.1
-rw-r--r-- root root /usr/share/man/man1/qvm-miragevpn.1
"""

DOM0 = """
-rw-rw-r-- root qubes /etc/qubes/policy.d/90-default-miragevpn.policy
-rw-r--r-- root root /srv/salt/qubes-miragevpn.sls
-rw-r--r-- root root /srv/salt/qubes-miragevpn.top
-rwxr-xr-x root root /usr/bin/qvm-miragevpn
-rw-r--r-- root root /usr/share/bash-completion/completions/qvm-miragevpn
-rw-r--r-- root root /usr/share/man/man1/qvm-miragevpn.1
"""

NATIVE = "qubes_miragevpn/dataplane/_native.abi3.so"

KEPT_IN_ETC = re.compile(r"/etc/qubes(-rpc|/rpc-config|/(post-install|qubes-firewall|suspend-(pre|post))\.d)/")
"""The conffiles: what an administrator may change. The store is none: dpkg neither writes nor removes what is in it."""

PYTHON = re.compile(r"/usr/lib(64)?/python3[^/]*/(dist|site)-packages/")
DOCUMENTS = re.compile(r"/usr/share/(doc|licenses|lintian)/")


def table(text: str) -> set[Entry]:
    """The rows of such a table."""
    rows = (line.split() for line in text.strip().splitlines())
    return {Entry(name, mode, owner, group) for mode, owner, group, name in rows}


def plain(entry: Entry) -> Entry:
    """The same whether man pages are compressed (Debian, and rpmbuild on Fedora) or not."""
    man = entry.name.startswith("/usr/share/man/") and entry.name.endswith(".gz")
    return Entry(entry.name.removesuffix(".gz") if man else entry.name, entry.mode, entry.owner, entry.group)


def shared_folders(expected: set[Entry]) -> set[str]:
    """Folders that are not ours, which a deb names and an rpm does not."""
    named = {entry.name for entry in expected}
    above = {f"{parent}/" for name in named for parent in Path(name).parents}
    return above - named | {"/usr/lib/python3/", "/usr/lib/python3/dist-packages/", "/usr/share/", "/usr/share/doc/"}


@pytest.mark.parametrize(("kind", "rows"), [("deb", VM), ("rpm", VM), ("dom0", DOM0)])
def test_names_modes_and_owners(kind: str, rows: str) -> None:
    expected = table(rows)
    found = {plain(entry) for entry in entries(kind)}
    theirs = {entry for entry in found if entry.name in shared_folders(expected)}
    assert {(entry.mode, entry.owner, entry.group) for entry in theirs} <= {("drwxr-xr-x", "root", "root")}
    ours = {entry for entry in found - theirs if not PYTHON.match(entry.name) and not DOCUMENTS.match(entry.name)}
    assert ours == expected


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_the_modules(kind: str) -> None:
    """Every module of the repository and the native one, none beside them; readable by all, writable by root."""
    found = {entry for entry in entries(kind) if PYTHON.match(entry.name)}
    for entry in found:
        mode = "drwxr-xr-x" if entry.name.endswith("/") else "-rw-r--r--"
        assert (entry.mode, entry.owner, entry.group) == (mode, "root", "root"), entry
    names = {PYTHON.sub("", entry.name) for entry in found if not entry.name.endswith("/")}
    modules = {name for name in names if name.startswith("qubes_miragevpn/") and "__pycache__" not in name}
    assert modules == {NATIVE} | {name for name in tracked(REPOSITORY) if name.startswith("qubes_miragevpn/")}


def test_dom0_gets_nothing_that_parses_a_profile() -> None:
    """Of the modules only those of the tool and below it, and what tells its version."""
    names = {PYTHON.sub("", entry.name) for entry in entries("dom0") if PYTHON.match(entry.name)}
    modules = {name for name in names if name.startswith("qubes_miragevpn/") and name.endswith(".py")}
    ours = ("qubes_miragevpn/__init__.py", "qubes_miragevpn/base/", "qubes_miragevpn/admin/")
    assert modules == {name for name in tracked(REPOSITORY) if name.startswith(ours)}
    others = {name for name in names - modules if not name.endswith("/") and "__pycache__" not in name}
    assert len(others) == 1 and next(iter(others)).endswith(".dist-info/METADATA")


def test_the_units_are_those_of_the_repository(tmp_path: Path) -> None:
    """The lab plays systemd with the repository's units; these are the installed ones."""
    run("dpkg-deb", "-x", package("deb"), tmp_path)
    installed = tmp_path / "usr/lib/systemd/system"
    units = {path.relative_to(UNITS) for path in UNITS.rglob("*") if path.suffix in (".service", ".socket", ".conf")}
    assert units == {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert all((UNITS / name).read_bytes() == (installed / name).read_bytes() for name in units)


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_the_programs_that_units_start_are_there(kind: str) -> None:
    """Each of our programs that a unit starts, a package brings."""
    lines = [line for unit in UNITS.rglob("*.*") if unit.is_file() for line in unit.read_text().splitlines()]
    words = {
        word.lstrip("+-!@") for line in lines if line.startswith("Exec") for word in line.partition("=")[2].split()
    }
    wanted = {word for word in words if word.startswith("/usr/") and "miragevpn" in word}
    assert "/usr/bin/miragevpn" in wanted and wanted <= {entry.name for entry in entries(kind)}


def test_conffiles() -> None:
    """What Debian asks about before it overwrites: all of ours in /etc but the store."""
    names = {entry.name for entry in entries("deb") if entry.name.startswith("/etc/") and not entry.name.endswith("/")}
    listed = set(run("dpkg-deb", "--info", package("deb"), "conffiles").split())
    assert listed == names
    assert all(KEPT_IN_ETC.match(name) for name in listed)
