# SPDX-License-Identifier: BSD-2-Clause
"""The tunnel's resolvers in the real systemd-resolved: installed, or unpacked by the set-up without being installed.

(Installing the package would hand the machine's own resolv.conf to it.)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.netns import ENVIRONMENT
from tests.interop.peers import REPOSITORY

PLACES = (Path("/"), REPOSITORY / "build" / "resolved")
PROGRAMS = ("usr/lib/systemd/systemd-resolved", "lib/systemd/systemd-resolved")


def program() -> tuple[Path, Path] | None:
    """The service and its tool, from one place."""
    for place in PLACES:
        for name in PROGRAMS:
            if (place / name).exists():
                return place / name, place / "usr/bin/resolvectl"
    return None


def test_what_the_service_says_it_was_told(tmp_path: Path) -> None:
    found = program()
    if found is None:
        pytest.skip("there is no systemd-resolved, neither installed nor unpacked by tools/setup")
    command = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.interop.plain.resolved", str(tmp_path)]
    ran = subprocess.run(
        [*command, *map(str, found)], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr + (tmp_path / "log").read_text(errors="replace")
    said = json.loads(ran.stdout)
    whole, plain, after = said["whole"], said["plain"], said["after"]
    assert re.search(r"DNS Servers: 10\.8\.0\.1:5353#dns\.example\n", whole)
    assert re.search(r"DNS Domain: corp\.example ~x\.example\n", whole)
    assert "-DefaultRoute" in whole and "+DNSOverTLS" in whole and "DNSSEC=no" in whole
    assert re.search(r"DNS Servers: 10\.8\.0\.1\n", plain) and re.search(r"DNS Domain: corp\.example ~\.\n", plain)
    assert "+DefaultRoute" in plain and "-DNSOverTLS" in plain, "what was set before is taken back"
    assert "DNS Servers" not in after and "DNS Domain" not in after
