# SPDX-License-Identifier: BSD-2-Clause
"""A clean Debian, as the template of a qube of the lab.

The root is made once by mmdebstrap from the machine's own mirror, of nothing but Debian's essential packages and what
our package depends on, and stays in build/template. A qube gets its /usr, /etc and /var, copy-on-write, in the place of
the machine's: what is installed there is gone with the qube. Python finds nothing there that Debian did not package.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from tests.lab.network import add_default_user
from tests.lab.qube import Qube
from tests.packages.building import REPOSITORY, alone, package, run

CLEAN = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
BESIDE = ("apt", "procps")
"""What every Debian has and the essential packages alone do not: apt, and sysctl for the lab."""

SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
"""Where this machine's Debian comes from, the first that is there."""

_MOUNTS = """
set -e
for top in usr etc var; do
    mkdir -p "$2/template/$top" "$2/template/$top-work"
    mount -t overlay overlay -o "lowerdir=$1/$top,upperdir=$2/template/$top,workdir=$2/template/$top-work" "/$top"
done
rm -f /etc/resolv.conf
: > /etc/resolv.conf
"""


def machine_suite() -> str:
    """The code name of this machine's Debian."""
    found = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "/etc/os-release names no suite"
    return found[1]


def dependencies() -> list[str]:
    """What the package depends on, the first of alternatives, without versions."""
    wanted = run("dpkg-deb", "--field", package("deb"), "Depends").split(",")
    return sorted(re.split(r"[ (:|]", each.strip())[0] for each in wanted)


def root(suite: str) -> Path:
    """A clean Debian (`suite`, or "": this machine's) with our dependencies; half a minute if it is not there yet."""
    included = sorted({*dependencies(), *BESIDE})
    suite = suite or machine_suite()
    key = hashlib.sha256(" ".join(included).encode()).hexdigest()[:12]
    with alone(REPOSITORY / "build" / "template") as folder:
        target = folder / f"{suite}-{key}"
        if not target.exists():
            making = folder / "making"
            for old in (making, *folder.glob(f"{suite}-*")):
                shutil.rmtree(old, ignore_errors=True)
            sources = [path for path in SOURCES if suite == machine_suite() and path.exists()]
            options = ("--variant=essential", f"--include={','.join(included)}")
            options += (
                "--dpkgopt=force-unsafe-io",
                '--aptopt=Acquire::Retries "5"',
                '--aptopt=Acquire::http::Timeout "30"',
            )
            run("mmdebstrap", *options, suite, making, *sources[:1])
            making.rename(target)
    return target


def become(qube: Qube, template: Path) -> None:
    """Give `qube` the template's /usr, /etc and /var in the place of the machine's."""
    qube.run("sh", "-c", _MOUNTS, "sh", str(template), str(qube.folder))
    add_default_user(qube)


def dpkg(qube: Qube, *arguments: str | Path) -> str:
    """Run dpkg in the qube as apt would, offline and with nobody to ask."""
    return qube.run(*CLEAN, "dpkg", *(str(word) for word in arguments), timeout=60).stdout
