# SPDX-License-Identifier: BSD-2-Clause
"""Questions that a server asks at the login, answered from another qube: openvpn asks, its management end judges.

Closed while a question stands; what was answered is kept nowhere and told to nobody but the server.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.interop.login.desk import Management
from tests.lab.places import SITE_A
from tests.lab.providers import OPENVPN
from tests.lab.qube import drain
from tests.lab.scene import Scene, scene
from tests.lab.service import PROFILES

PASSWORD, PIN, CODE, STATIC, PROXY, KEY = "right horse", "8675309", "424242", "5551234", "9172635", "7163948"
STATE = "Om01u7Fh4LrGBS7uh0SWmzwabUiGiW6l"
ASKING = SITE_A.name, "with-pin"
REFUSED = 7


class Desk(Management):
    """Provider A's, and sys-vpn's Events as another qube hears them."""

    def __init__(self, here: Scene) -> None:
        path = here.lab.folder / "desk"
        self.here, self.heard = here, list[bytes]()
        a = here.providers.a
        a.extra = f"management {path} unix\nmanagement-client-auth\nscript-security 2\nauth-user-pass-optional\n"
        a.renew()
        a.start()
        super().__init__(path)
        here.lab.vpn.path(f"{PROFILES}/{SITE_A.name}.ovpn").unlink()  # the one without a login
        here.service.start()
        for name, extra in zip(ASKING, ("", 'static-challenge "PIN of the card?" 1\n'), strict=True):
            text = a.profile_text + "auth-user-pass\n" + extra
            assert here.service.call("ImportProfile", name, data=text.encode()).code == 0
            assert here.service.call("SetCredentials", name, data=f"ada\n{PASSWORD}\n".encode()).code == 0
        self.events = here.lab.vpn.popen(
            ["setpriv", "--reuid", "user", "--regid", "user", "--init-groups", "/etc/qubes-rpc/miragevpn.Events"],
            env={"QREXEC_REMOTE_DOMAIN": "dom0", "PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE,
        )  # fmt: skip
        drain(self.events.stdout, self.heard.append)

    def question(self, text: str) -> None:
        """Wait until Events tells of the question, and see that nothing is open meanwhile."""
        self.until(lambda: any(text in json.loads(line).get("question", "") for line in self.heard), text)
        details = json.loads(self.here.service.call("Details", source="dom0").output)
        assert text in details["tunnels"]["vpn0"]["question"]
        assert text not in self.here.service.call("Status").output
        self.here.must_be_closed(6)

    def answer(self, text: str) -> None:
        reply = self.here.service.call("Answer", source="dom0", data=f"{text}\n".encode())
        assert (reply.code, json.loads(reply.output)) == (0, {"answered": True})

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.here.service.until(condition, what)


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with scene(OPENVPN) as here:
        made = Desk(here)
        yield made
        made.close()


def test_a_question_before_the_login(desk: Desk) -> None:
    """The server refuses with a question, and takes the answer in the place of the password."""
    assert desk.here.service.call("Switch", SITE_A.name, source="dom0").code == 0
    visit = desk.visit()
    assert (visit.username, visit.password) == ("ada", PASSWORD)
    desk.deny(visit, f"CRV1:R,E:{STATE}:{base64.b64encode(b'ada').decode()}:PIN of the token?")
    desk.question("PIN of the token?")
    desk.answer(PIN)
    visit = desk.visit()
    assert (visit.username, visit.password) == ("ada", f"CRV1::{STATE}::{PIN}")
    desk.accept(visit)
    desk.here.must_heal()
    reply = desk.here.service.call("Answer", source="dom0", data=b"1\n")
    assert (reply.code, json.loads(reply.output)["reason"]) == (REFUSED, "the server has asked nothing")


def test_a_question_during_the_login(desk: Desk) -> None:
    desk.here.service.call("Disconnect", source="dom0")
    desk.here.service.wait_state("closed")
    desk.here.service.call("Connect", source="dom0")
    visit = desk.visit()
    desk.say(f'client-pending-auth {visit.client} {visit.key} "CR_TEXT:R,E:Code from the app?" 60')
    desk.question("Code from the app?")
    desk.answer(CODE)
    answer = desk.visit()
    assert answer.event == "CR_RESPONSE" and base64.b64decode(answer.rest) == CODE.encode()
    desk.accept(visit)
    desk.here.must_heal()


def test_questions_for_a_proxy(desk: Desk) -> None:
    """User name and password, one after the other, and anew where no proxy could be told them; nothing is sent yet."""
    text = desk.here.providers.a.profile_text + "socks-proxy 203.0.113.250 1080 stdin\n"
    assert desk.here.service.call("ImportProfile", "by-proxy", data=text.encode()).code == 0
    assert desk.here.service.call("Switch", "by-proxy", source="dom0").code == 0
    desk.question("user name for the SOCKS proxy 203.0.113.250 port 1080")
    desk.answer("ada")
    desk.question("password for the SOCKS proxy 203.0.113.250 port 1080")
    desk.answer(PROXY * 40)
    desk.question("have from 1 to 255 bytes each: user name for the SOCKS proxy 203.0.113.250 port 1080")


def test_the_password_of_a_private_key(desk: Desk) -> None:
    """Asked before anything is sent, and kept for the next attempt; a wrong one waits for a command."""
    text = desk.here.providers.a.profile_text
    plain = re.search(r"-----BEGIN PRIVATE KEY-----.+?-----END PRIVATE KEY-----\n", text, re.DOTALL)
    assert plain is not None
    how = BestAvailableEncryption(KEY.encode())
    key = load_pem_private_key(plain[0].encode(), None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how).decode()
    reply = desk.here.service.call("ImportProfile", "locked", data=text.replace(plain[0], key).encode())
    assert reply.code == 0 and "asked for when the profile is used" in reply.output
    assert desk.here.service.call("Switch", "locked", source="dom0").code == 0
    desk.question("password of the private key of profile locked")
    desk.answer(KEY + "x")
    desk.here.service.wait_state("failed")
    desk.here.must_be_closed(1)
    desk.heard.clear()
    desk.here.service.call("Connect", source="dom0")
    desk.question("password of the private key of profile locked")
    desk.answer(KEY)
    desk.accept(desk.visit())
    desk.here.must_heal()
    desk.here.service.call("Disconnect", source="dom0")
    desk.here.service.wait_state("closed")
    desk.here.service.call("Connect", source="dom0")
    desk.accept(desk.visit())
    desk.here.must_heal()


def test_a_question_of_the_profiles_own(desk: Desk) -> None:
    """Asked before anything is sent; password and answer go to the server together."""
    assert desk.here.service.call("Switch", "with-pin", source="dom0").code == 0
    desk.question("PIN of the card?")
    desk.answer(STATIC)
    visit = desk.visit()
    encoded = [base64.b64encode(text.encode()).decode() for text in (PASSWORD, STATIC)]
    assert visit.password == f"SCRV1:{encoded[0]}:{encoded[1]}"
    desk.accept(visit)
    desk.here.must_heal()


def test_what_was_answered_is_told_to_nobody(desk: Desk) -> None:
    """Not in the log, not to listeners, in no reply, in no file; nor is the password, but in its file."""
    here = desk.here
    desk.until(lambda: any(b"connected" in line for line in desk.heard[-3:]), "the last event")
    told = [*here.service.log, *(line.decode() for line in desk.heard)]
    told += [here.service.call(name, source="dom0").output for name in ("Status", "Details", "Profiles")]
    secrets = [PASSWORD, PIN, CODE, STATIC, PROXY, KEY]
    secrets += [base64.b64encode(text.encode()).decode() for text in secrets]
    assert not [text for text in told if any(secret in text for secret in secrets)]
    found = here.lab.vpn.run("grep", "-rlE", "|".join(secrets[1:6]), "/etc/qubes-miragevpn", "/run", check=False)
    assert found.stdout == ""
    here.must_be_tight()
