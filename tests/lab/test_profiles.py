# SPDX-License-Identifier: BSD-2-Clause
"""Profiles by qrexec and by the command line in the lab: handed in, tried, rolled back, removed; closed in between."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab.places import SITE_A, SITE_B
from tests.lab.scene import Scene, scene
from tests.unit.qube.profiles.test_bundle import packed

REFUSED = 7


@pytest.fixture(scope="module")
def live() -> Iterator[Scene]:
    """One scene with profile A connected, for tests that leave it so; a trial is over after three seconds."""
    with scene() as made:
        made.lab.vpn.write("/etc/qubes-miragevpn/service.conf", "rollback_after = 3\n")
        made.providers.b.start()
        made.connected()
        yield made


def _parts(live: Scene) -> bytes:
    """Provider B's profile as a tar, its authority in a file of its own."""
    text = live.providers.b.profile_text
    before, _, rest = text.partition("<ca>\n")
    authority, _, after = rest.partition("</ca>\n")
    return packed({"b/b.ovpn": f"{before}ca keys/ca.crt\n{after}".encode(), "b/keys/ca.crt": authority.encode()})


def test_a_profile_handed_in_by_another_qube_is_used(live: Scene) -> None:
    """A tar by qrexec; then switched to, and back; nothing clear on the uplink all the while."""
    reply = live.service.call("ImportProfile", "handed-in", data=_parts(live), source="mgmt-vpn")
    assert (reply.code, json.loads(reply.output)) == (0, {"profile": "handed-in", "warnings": []})
    assert live.service.call("Switch", "handed-in+rollback").code == 0
    live.service.wait_state("connected", profile="handed-in")
    live.must_carry(SITE_B)
    assert live.service.call("RemoveProfile", "handed-in").code == REFUSED, "in use"
    assert live.service.call("Switch", SITE_A.name).code == 0
    live.must_carry(SITE_A)
    assert live.service.call("RemoveProfile", "handed-in").code == 0
    assert "handed-in" not in live.service.call("Profiles").output


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"client\nno-such-directive\n", "handed-in.ovpn:2: "),
        (b"\x1f\x8b" + bytes(100), "compressed"),
        (packed({"a.ovpn": b"client\nca ../x\n", "../x": b""}), '".."'),
        (bytes(1 << 16), "neither a profile nor a tar"),
    ],
)
def test_what_is_wrong_with_it_is_said_and_nothing_changes(live: Scene, data: bytes, reason: str) -> None:
    reply = live.service.call("ImportProfile", "handed-in", data=data)
    answer = json.loads(reply.output)
    assert (reply.code, answer["error"]) == (REFUSED, "refused") and reason in answer["reason"]
    assert "handed-in" not in live.service.call("Profiles").output
    assert live.service.state() == "connected"


def test_a_profile_that_does_not_connect_is_rolled_back(live: Scene) -> None:
    """A server that refuses our certificate: the switch ends where it began, and the door was shut in between."""
    ca = live.providers.b.profile_text.partition("<ca>")[2].partition("</ca>")[0]
    wrong = live.providers.a.profile_text.partition("<ca>")
    text = f"{wrong[0]}<ca>{ca}</ca>{wrong[2].partition('</ca>')[2]}"
    assert live.service.call("ImportProfile", "wrong", data=text.encode()).code == 0
    live.lab.vpn.run("miragevpn", "switch", "--rollback", "wrong")
    live.service.wait_state("connected", profile=SITE_A.name)
    live.must_carry(SITE_A)
    assert any("profile wrong failed: back to" in line for line in live.service.log)


def test_events_tell_of_a_switch(live: Scene) -> None:
    """A line for each state, to whoever listens."""
    listening = live.lab.vpn.popen(["miragevpn", "events"], stdout=subprocess.PIPE)
    assert listening.stdout is not None
    assert json.loads(listening.stdout.readline())["state"] == "connected"
    assert live.service.call("Switch", SITE_B.name).code == 0
    states = []
    while not states or states[-1] != ("connected", SITE_B.name):
        event = json.loads(listening.stdout.readline())
        states.append((event["state"], event["profile"]))
    assert [state for state, _ in states] == ["switching", "connecting", "connected"]
    listening.kill()
    listening.wait()
    assert live.service.call("Switch", SITE_A.name).code == 0
    live.must_carry(SITE_A)


def test_the_command_line(live: Scene) -> None:
    """As the owner of sys-vpn: a profile with a file beside it, credentials, a default, another name."""
    vpn = live.lab.vpn
    text, authority = live.providers.b.profile_text, "ca.crt"
    before, _, rest = text.partition("<ca>\n")
    vpn.write(f"/run/in/{authority}", rest.partition("</ca>\n")[0])
    vpn.write("/run/in/mine.ovpn", f"{before}ca {authority}\n{rest.partition('</ca>')[2]}")
    assert "profile    mine" in vpn.run("miragevpn", "import", "mine", "/run/in/mine.ovpn").stdout
    vpn.run("miragevpn", "credentials", "mine", text="me\nsecret word\n")
    vpn.run("miragevpn", "rename", "mine", "other")
    vpn.run("miragevpn", "default", "other")
    assert "  other (default)" in vpn.run("miragevpn", "profiles").stdout.splitlines()
    shown = [live.service.call(name).output for name in ("Status", "Profiles")]
    assert not any("secret" in text for text in (*shown, *live.service.log))
    vpn.run("miragevpn", "remove", "other")
    assert not vpn.path("/etc/qubes-miragevpn/credentials/other").exists()
    assert vpn.run("miragevpn", "import", "x", "/etc/passwd", check=False).returncode == 2
    live.must_be_tight()


def test_after_a_crash_it_goes_on_where_it_was(live: Scene) -> None:
    """SIGKILL: the next service uses the profile that was switched to; one that was disconnected stays so."""
    assert live.service.call("Switch", SITE_B.name).code == 0
    live.service.wait_state("connected", profile=SITE_B.name)
    live.service.kill()
    live.service.start()
    live.service.wait_state("connected", profile=SITE_B.name)
    live.lab.vpn.run("miragevpn", "disconnect")
    live.service.wait_state("closed")
    live.service.kill()
    live.service.start()
    assert live.service.state() == "closed"
    live.must_be_closed()
    assert live.service.call("Switch", SITE_A.name).code == 0
    live.must_carry(SITE_A)
