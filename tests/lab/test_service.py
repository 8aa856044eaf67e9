# SPDX-License-Identifier: BSD-2-Clause
"""The service as others meet it: by qrexec, by the command line in sys-vpn, by systemd's notification protocol."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.lab import qubesfirewall
from tests.lab.appvm import ask, seen_address
from tests.lab.places import FOREIGN_DNS4, SITE_A, SITE_B, WEB4
from tests.lab.providers import OPENVPN
from tests.lab.scene import Scene, scene

REFUSED, NO_SERVICE = 7, 6
STATUS = {"state", "profile", "since", "bytes_in", "bytes_out", "reason", "backend"}


@pytest.fixture(scope="module")
def live() -> Iterator[Scene]:
    """One scene with profile A connected, for tests that leave it so."""
    with scene() as made:
        made.connected()
        yield made


def test_status_and_profiles(live: Scene) -> None:
    """One JSON object each, without a secret or an address of the server."""
    reply = live.service.call("Status")
    status = json.loads(reply.output)
    assert (reply.code, set(status)) == (0, STATUS)
    assert (status["state"], status["profile"], status["reason"]) == ("connected", SITE_A.name, "")
    assert status["bytes_in"] > 0 and status["bytes_out"] > 0
    assert not any(word in reply.output for word in (SITE_A.public4, SITE_A.tunnel, "vpn.lab", "KEY"))
    profiles = live.service.call("Profiles")
    assert profiles.code == 0 and SITE_A.name in profiles.output and SITE_B.name in profiles.output


@pytest.mark.parametrize(
    ("service", "argument"),
    [
        ("Switch", ""),
        ("Switch", ".."),
        ("Switch", "../../etc/passwd"),
        ("Switch", "no-such-profile"),
        ("Switch", "-h"),
        ("Switch", "--help"),
        ("Switch", "a" * 65),
        ("Switch", "a" * 200),
        ("Switch", "provider-a;id"),
        ("Status", "extra"),
        ("Profiles", "extra"),
        ("Connect", SITE_B.name),
        ("Disconnect", SITE_B.name),
    ],
)
def test_bad_arguments_change_nothing(live: Scene, service: str, argument: str) -> None:
    """Refused with a code of its own, nothing more said to the caller, and the tunnel stays as it is."""
    reply = live.service.call(service, argument)
    assert (reply.code, json.loads(reply.output), reply.complaint) == (REFUSED, {"error": "refused"}, "")
    assert (live.service.state(), live.service.status()["profile"]) == ("connected", SITE_A.name)


@pytest.mark.parametrize("source", ["", "a b", "x" * 65, "../work", "-x", "wörk"])
def test_a_caller_without_a_proper_name_is_refused(live: Scene, source: str) -> None:
    """dom0 would never send such a name; it is checked all the same."""
    assert live.service.call("Status", source=source).code == REFUSED


def test_input_that_nobody_asked_for(live: Scene) -> None:
    """A caller that sends megabytes on standard input gets its answer, or is cut off; the service lives."""
    assert live.service.call("Status", data=bytes(1 << 20)).code == 0
    assert live.service.state() == "connected"


FLOOD = """
import os, socket, time
links = []
for number in range(60):
    links.append(socket.socket(socket.AF_UNIX))
    links[-1].connect("/run/qubes-miragevpn/control.sock")
    try:
        links[-1].send(os.urandom(5000) if number % 2 else b'{"verb"')
    except OSError:
        pass
print("stalling", flush=True)
time.sleep(4)
"""


def test_callers_that_flood_stall_and_send_garbage(live: Scene) -> None:
    """Sixty at once, half of them silent after some bytes: told no or let go; work's page comes, and so do answers."""
    user = ("setpriv", "--reuid", "user", "--regid", "user", "--init-groups")
    before = len(live.service.log)
    flood = live.lab.vpn.popen([*user, sys.executable, "-c", FLOOD], stdout=subprocess.PIPE)
    assert flood.stdout.readline() == b"stalling\n"
    live.must_carry(SITE_A, within=10)
    live.service.until(lambda: live.service.call("Status").code == 0, "an answer")
    assert flood.poll() is None, "they are still there"
    assert live.service.state() == "connected" and len(live.service.log) < before + 100
    flood.kill()


def test_the_command_line_in_sys_vpn(live: Scene) -> None:
    """What the owner types there."""
    vpn = live.lab.vpn
    assert "connected" in vpn.run("miragevpn", "status").stdout
    assert SITE_B.name in vpn.run("miragevpn", "profiles").stdout
    assert vpn.run("miragevpn", "switch", "no-such-profile", check=False).returncode == REFUSED
    assert live.service.state() == "connected"


def test_the_firewall_that_dom0_gives_an_appvm_holds_in_the_tunnel(live: Scene) -> None:
    """An AppVM that may only ask its resolver and fetch from one server does so by the tunnel, and no more.

    The set of resolvers comes from sys-vpn's resolv.conf, which the service therefore writes.
    """
    vpn, work = live.lab.vpn, live.work
    address = work.address.ip4
    try:
        qubesfirewall.set_rules(vpn, address, (*qubesfirewall.DNS, f"ip daddr {WEB4} tcp dport 80 accept"))
        assert ask(work, "resolver").startswith("no: "), "the set of resolvers is still empty"
        qubesfirewall.reload(vpn)
        assert (ask(work, "resolver"), ask(work, "name", "web.lab")) == (SITE_A.name, WEB4)
        assert seen_address(work, "web.lab") == SITE_A.public4
        assert ask(work, "resolver", FOREIGN_DNS4).startswith("no: ")
    finally:
        qubesfirewall.set_rules(vpn, address, qubesfirewall.ACCEPT)
    assert ask(work, "resolver", FOREIGN_DNS4) == "foreign"
    live.must_be_tight()


def test_systemd_hears_of_readiness_state_and_life(live: Scene) -> None:
    """READY=1 once, a STATUS= that says connected; WATCHDOG=1 is checked where the period is short."""
    assert sum(note.get("READY") == "1" for note in live.service.notes) == 1
    live.service.until(lambda: any("connected" in note.get("STATUS", "") for note in live.service.notes), "STATUS")


def test_the_watchdog_is_fed_and_starves_when_frozen() -> None:
    """WATCHDOG=1 comes within the period while it lives, and not while it is stopped: systemd would kill it."""
    with scene() as stage:
        stage.service.watchdog = 1.0
        stage.service.start()
        beats = stage.service.beats
        stage.service.until(lambda: stage.service.beats >= beats + 3, "three beats")
        stage.service.send(signal.SIGSTOP)
        time.sleep(0.3)
        beats = stage.service.beats
        time.sleep(1.2)
        assert stage.service.beats == beats
        stage.service.kill()
        stage.must_be_closed()


def test_without_the_service_callers_are_told_so() -> None:
    """No service, no socket: an exit code of its own, and no trace."""
    with scene() as stage:
        reply = stage.service.call("Status")
        assert (reply.code, json.loads(reply.output), reply.complaint) == (NO_SERVICE, {"error": "no service"}, "")


def test_with_openvpn_as_both_providers() -> None:
    """The same story against the distribution's servers."""
    with scene(OPENVPN) as stage:
        stage.connected()
        stage.providers.b.start()
        assert stage.service.call("Switch", SITE_B.name, source="dom0").code == 0
        stage.service.wait_state("connected", profile=SITE_B.name)
        stage.must_carry(SITE_B)
        stage.providers.b.kill()
        stage.service.until(lambda: stage.service.state() != "connected", "noticing")
        stage.must_be_closed()
        stage.providers.b.start()
        stage.must_heal(SITE_B)
