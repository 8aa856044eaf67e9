# SPDX-License-Identifier: BSD-2-Clause
"""The units together with stand-ins of Qubes' own, as systemd reads them: known words, no order that bites its tail."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from qubes_miragevpn.qube.settings import Settings

SYSTEMD = Path(__file__).parents[3] / "install" / "vm" / "systemd"
HELPER = "/usr/lib/qubes-miragevpn/qubes-miragevpn-dns"
SCRIPT = "/usr/lib/qubes-miragevpn/qubes-miragevpn-lockdown"

STAND_INS = {
    "qubes-sysinit.service": "DefaultDependencies=no",
    "qubes-iptables.service": "Before=network-pre.target\nWants=network-pre.target",
    "qubes-firewall.service": "After=qubes-iptables.service\nBefore=qubes-network.service",
    "qubes-network.service": "Before=network.target\nAfter=network-pre.target",
    "qubes-network-uplink@.service": "Requires=network-pre.target\nAfter=network-pre.target\nBefore=network.target",
    "qubes-network-uplink.service": "Before=network.target",
    "qubes-mount-dirs.service": "DefaultDependencies=no",
    "qubes-bind-dirs.service": "After=qubes-mount-dirs.service",
}
"""What of Qubes' units concerns order, in our own words (qubes-core-agent-linux, vm-systemd)."""

NEWER = ("RestartSteps", "RestartMaxDelaySec")  # of systemd 254; an older one says that it leaves them out


def values(file: Path, key: str) -> list[str]:
    lines = file.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.partition("=")[0] == key]


def test_the_uplinks_unit_ends_with_the_lockdown() -> None:
    """Whatever setup-ip puts into the main table is out again before the uplink counts as there."""
    (command,) = values(SYSTEMD / "qubes-network-uplink@.service.d" / "30-qubes-miragevpn.conf", "ExecStartPost")
    assert command == f"{SCRIPT} uplink", "no dash before it: if it fails, the uplink fails"
    script = (SYSTEMD.parent / "qubes-miragevpn-lockdown").read_text()
    flag, clearing = script.index('= uplink ] && [ ! -e "$FLAGS/miragevpn" ]'), script.index("\nrouting -4")
    assert flag < clearing, "nothing is touched in a qube that is no VPN qube"
    assert "disable-default-route" in script


def test_the_lockdown_is_kept_whatever_becomes_of_the_service() -> None:
    """Stopping, failing or removing the service stops nothing else."""
    service, lockdown = SYSTEMD / "qubes-miragevpn.service", SYSTEMD / "qubes-miragevpn-lockdown.service"
    assert values(service, "Requires") == [f"{lockdown.name} qubes-miragevpn-dns.socket"]
    for key in ("PartOf", "BindsTo", "StopWhenUnneeded", "ExecStop", "ExecStopPost", "Conflicts"):
        assert values(lockdown, key) == []
    assert values(service, "ExecStop") == values(service, "ExecStopPost") == []
    assert values(lockdown, "RemainAfterExit") == ["yes"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    shutil.copytree(SYSTEMD, tmp_path, dirs_exist_ok=True)
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(f"[Unit]\n{text}\n[Service]\nType=oneshot\nExecStart=/bin/true\n")
    for file in tmp_path.rglob("*.*"):
        if file.is_file():
            words = file.read_text()
            for program in ("/usr/bin/miragevpn service", f"{SCRIPT} uplink", f"-+{SCRIPT} keep", SCRIPT, HELPER):
                words = words.replace(f"={program}", "=/bin/true")
            file.write_text(words)
    units = ["qubes-miragevpn.service", "qubes-miragevpn-lockdown.service", "qubes-network.service"]
    units += ["qubes-miragevpn-dns.socket"]
    command = ["systemd-analyze", "--man=no", "verify", *units, "qubes-network-uplink@eth0.service"]
    done = subprocess.run(
        command, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}, cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=25,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "miragevpn" in line or "qubes-" in line or "cycle" in line]
    assert [line for line in ours if not any(word in line for word in NEWER)] == []
    # the control: the same with an order that cannot be
    (tmp_path / "qubes-sysinit.service").write_text(
        "[Unit]\nDefaultDependencies=no\nAfter=qubes-network.service\n[Service]\nType=oneshot\nExecStart=/bin/true\n"
    )
    lockdown = tmp_path / "qubes-miragevpn-lockdown.service"
    lockdown.write_text(lockdown.read_text().replace("[Unit]\n", "[Unit]\nRequires=qubes-sysinit.service\n"))
    again = subprocess.run(
        command, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}, cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=25,
    )  # fmt: skip
    assert "cycle" in again.stderr


SYSUSERS = SYSTEMD.parent / "sysusers.d" / "qubes-miragevpn.conf"
TMPFILES = SYSTEMD.parent / "tmpfiles.d" / "qubes-miragevpn.conf"


def test_the_steps_that_run_as_root() -> None:
    """Few, without input but for the resolvers, and in doc/architecture.md."""
    service, helper = SYSTEMD / "qubes-miragevpn.service", SYSTEMD / "qubes-miragevpn-dns@.service"
    steps = [f"/usr/bin/systemd-tmpfiles --create {TMPFILES.name}", f"{SCRIPT} keep"]
    assert values(service, "ExecStartPre") == [f"-+{step}" for step in steps]
    assert values(helper, "ExecStart") == [HELPER] and values(helper, "CapabilityBoundingSet") == [""]
    assert values(helper, "StandardInput") == values(helper, "StandardOutput") == ["socket"]
    socket = SYSTEMD / "qubes-miragevpn-dns.socket"
    assert values(socket, "SocketUser") == values(service, "User") and values(socket, "SocketMode") == ["0600"]
    text = (Path(__file__).parents[3] / "doc" / "architecture.md").read_text()
    for name in ("qubes-miragevpn-lockdown", "qubes-miragevpn-dns", "systemd-tmpfiles", "30-qubes-miragevpn"):
        assert f"`{name}" in text, name


def test_the_user_of_the_unit_is_made_and_owns_what_the_service_writes() -> None:
    lines = [line.split() for line in SYSUSERS.read_text().splitlines() if line and not line.startswith("#")]
    assert ["u", "qubes-miragevpn"] in [line[:2] for line in lines]
    assert not [line for line in lines if line[0] == "m"], "who is in the group qubes may become root"
    assert values(SYSTEMD / "qubes-miragevpn.service", "SupplementaryGroups") == []
    rows = [line.split() for line in TMPFILES.read_text().splitlines() if line and not line.startswith("#")]
    owned = {row[1] for row in rows if row[0] == "Z" and row[3:5] == ["qubes-miragevpn"] * 2}
    settings = Settings()
    for folder in (settings.profile_dir, settings.credentials_dir, settings.profile_settings_dir):
        assert str(folder) in owned
    assert str(settings.state_file.parent) in owned
    assert ["z", "/etc/qubes-miragevpn/service.conf", "0640", "root", "qubes-miragevpn", "-"] in rows
    assert "/etc/qubes-miragevpn" not in owned, "the folder is root's: so service.conf stays root's"
