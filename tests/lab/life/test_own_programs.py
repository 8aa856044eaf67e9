# SPDX-License-Identifier: BSD-2-Clause
"""sys-vpn's own programs, such as the updates proxy, where the owner lets them use the tunnel: by it or not at all.

That they may not unless he says so is shown in `test_leaks` and, for each barrier, in `closed`.
"""

from __future__ import annotations

import signal

from tests.lab.network import python
from tests.lab.places import FOREIGN_DNS4, SITE_A, SITE_B, UPLINK, WEB4, WEB6
from tests.lab.scene import Scene, scene


def own(here: Scene, *arguments: str) -> str:
    """What a program of sys-vpn's own gets, run as an ordinary user."""
    user = ("setpriv", "--reuid", "user", "--regid", "user", "--init-groups")
    done = here.lab.vpn.run(*user, *python("ask.py"), *arguments, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"no: {done.stderr.strip().splitlines()[-1]}"


def refused(here: Scene) -> None:
    """Whatever it tries fails, and nothing of it is seen; nor of the AppVMs."""
    for arguments in (("fetch", WEB4), ("fetch", WEB6), ("resolver", FOREIGN_DNS4), ("fetch", SITE_A.public4)):
        assert own(here, *arguments).startswith("no: "), arguments
    here.must_be_closed(8)


def test_through_the_tunnel_or_not_at_all() -> None:
    """A page and names through whichever provider is connected; nothing before, between, after, and none past it."""
    with scene() as here:
        here.lab.vpn.write("/etc/qubes-miragevpn/service.conf", "own_programs = yes\n")
        refused(here)
        here.service.start()
        here.service.wait_state("connecting")
        refused(here)
        here.providers.start()
        here.must_heal()
        assert own(here, "fetch", "web.lab") == f"hello, you are {SITE_A.public4}"
        assert own(here, "resolver") == SITE_A.name
        assert own(here, "fetch", WEB6).startswith("no: "), "the tunnel carries no IPv6"
        assert own(here, "multicast", UPLINK) == "0"
        assert here.service.call("Switch", SITE_B.name).code == 0
        here.must_carry(SITE_B)
        assert own(here, "fetch", "web.lab") == f"hello, you are {SITE_B.public4}"
        here.service.send(signal.SIGSTOP)
        refused(here)
        here.service.send(signal.SIGCONT)
        here.must_heal(SITE_B)
        here.service.kill()
        refused(here)
