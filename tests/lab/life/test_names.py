# SPDX-License-Identifier: BSD-2-Clause
"""Rules with names for a qube that stands directly behind sys-vpn: looked up by the tunnel, or not at all.

While a rule holds a name, root may ask the tunnel's resolvers, and nobody else anybody else. A program of root's that
sends by every way it has (`own` noise) is seen neither on the uplink nor in the tunnel all the while.
"""

from __future__ import annotations

from tests.lab.appvm import Noise, ask
from tests.lab.namedrules import QubesDb, Worker, look_up
from tests.lab.network import python
from tests.lab.places import FOREIGN_DNS4, SITE_A, SITE_B, WEB4
from tests.lab.qube import Qube
from tests.lab.scene import scene

NAME = "web.lab"
RULES = ("action=accept specialtarget=dns", f"action=accept dsthost={NAME} proto=tcp dstports=80-80")
WITHIN = 40.0  # seconds; a look at the rules every five, and questions that time out


def root(qube: Qube, *arguments: str) -> str:
    """What a program of root's in sys-vpn gets."""
    done = qube.run(*python("ask.py"), *arguments, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def test_a_name_is_looked_up_by_the_tunnel_or_not_at_all() -> None:
    """Closed, open by one provider, open by the other, killed."""
    with scene() as here:
        vpn, source = here.lab.vpn, here.work.address.ip4
        database = QubesDb(vpn)
        database.set_rules(source, *RULES)
        with Worker(vpn, database) as worker, Noise(vpn, own=True):
            here.service.start()
            here.service.wait_state("connecting")
            here.service.until(lambda: source in worker.read, "rules that were read", WITHIN)
            assert worker.read[source] == () and look_up(vpn, NAME) == "", "nobody can be asked"
            here.must_be_closed()
            here.providers.start()
            here.must_carry(SITE_A, within=WITHIN)
            assert worker.read[source][-1] == f"ip daddr {WEB4} tcp dport 80-80 accept"
            assert (ask(here.work, "name", NAME), ask(here.work, "resolver", FOREIGN_DNS4)[:4]) == (WEB4, "no: ")
            assert look_up(vpn, NAME) == WEB4 and root(vpn, "resolver") == SITE_A.name
            assert look_up(vpn, NAME, "user") == "", "not root"
            assert root(vpn, "resolver", FOREIGN_DNS4) == "", "not the tunnel's resolver"
            assert root(vpn, "fetch", WEB4) == root(vpn, "fetch", SITE_A.resolver) == "", "not a question"
            assert here.service.call("Switch", SITE_B.name).code == 0
            here.must_carry(SITE_B, within=WITHIN)
            assert root(vpn, "resolver") == SITE_B.name and root(vpn, "resolver", SITE_A.resolver) == ""
            here.service.kill()
            assert look_up(vpn, NAME) == ""
            here.must_be_closed()
