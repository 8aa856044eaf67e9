# SPDX-License-Identifier: BSD-2-Clause
"""The service with the capabilities that its unit leaves it: everything works, and nothing is there beyond them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.places import SITE_A, SITE_B
from tests.lab.scene import Scene, scene

NET_ADMIN, DAC_READ_SEARCH = 1 << 12, 1 << 2
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


def test_one_capability(live: Scene) -> None:
    """And the one that only the lab adds, to read this clone wherever it lies."""
    status = _status(live)
    for key in ("CapBnd", "CapEff", "CapPrm"):
        assert int(status[key], 16) & ~DAC_READ_SEARCH == NET_ADMIN, key
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"


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
    """A password is in its file, for root's eyes alone, and neither in a log, an argument, an environment, a reply."""
    assert live.service.process is not None
    proc = Path(f"/proc/{live.service.process.pid}")
    seen = [(proc / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
    seen += live.service.log + [live.service.call(name).output for name in ("Status", "Details", "Profiles")]
    assert not any(word in text for text in seen for word in (PASSWORD, "PRIVATE KEY", "OpenVPN Static key"))
    stored = live.lab.vpn.path(f"/etc/qubes-miragevpn/credentials/{SITE_A.name}")
    assert stored.read_text() == f"me\n{PASSWORD}\n" and stored.stat().st_mode & 0o777 == 0o600
    assert "Max core file size        0                    0" in (proc / "limits").read_text()
