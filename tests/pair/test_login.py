# SPDX-License-Identifier: BSD-2-Clause
"""Logging in: refusals of every kind, questions, tokens, addresses to open; honest servers and hostile ones."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, Proto, Remote, StaticChallenge, Timers
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.remotes import MAX_BACKOFF
from qubes_miragevpn.protocol.server import Server
from qubes_miragevpn.protocol.wire.messages import ChallengeResponse
from tests.interop.pki import Pki
from tests.pair.test_handshake import connected, transfer
from tests.pair.world import SERVER_AT, Side, World, client_config, server_config, up

QUIET = Timers(ping=10, ping_restart=0, reneg_sec=0)
ADA = Credentials("ada", Secret(b"right"))
TOKEN = "SESS_ID_AT_" + "A" * 80
Reply = Callable[[tuple[str, bytes]], list[str]]
"""What a server sends to a login (user name, password) instead of a push; nothing: the push."""


class Office:
    """A server's judgement of logins, written down; what it says inside TLS is the test's."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, reply: Reply) -> None:
        self.world = world
        self.logins: list[tuple[str, bytes]] = []
        self.heard: list[str] = []
        self.reply = reply
        self._told: dict[int, float] = {}
        introduced, push = Server._introduced, Server._serve

        def listen(machine: Any, peer: Any, key_id: int, hello: Any, now: float) -> None:
            self.logins.append((hello.username, hello.password.reveal()))
            introduced(machine, peer, key_id, hello, now)

        def judge(machine: Any, peer: Any, now: float) -> None:
            if now < self._told.get(peer.number, 0) + 1:
                return  # its first PUSH_REQUEST, which crossed the answer; it asks again every few seconds
            messages = self.reply(self.logins[-1])
            if not messages:
                push(machine, peer, now)
            elif peer.number not in self._told:
                self._told[peer.number] = now
                for message in messages:
                    peer.session.send_message(message, now)

        monkeypatch.setattr(Server, "_introduced", listen)
        monkeypatch.setattr(Server, "_serve", judge)

    def say(self, message: str, *, of: int = -1) -> None:
        """Send a control message to the newest client."""
        machine: Any = self.world.server.machine
        peer = list(machine._peers)[of]
        machine._out = []
        peer.session.send_message(message, self.world.now)
        machine._collect(peer, self.world.now)
        effects, machine._out = machine._out, []
        for effect in effects:
            self.world.server._apply(effect)
        self.world.run(0.2)


def accept(login: tuple[str, bytes]) -> list[str]:
    return []


def scene(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, reply: Reply = accept, *, push: tuple[str, ...] = (), **config: Any
) -> tuple[World, Office, Side]:
    world = World(server_config(pki, push=("ping 10", *push), timers=replace(QUIET, hand_window=3000)))
    office = Office(world, monkeypatch, reply)
    settings: dict[str, Any] = {"auth_user_pass": True, "credentials": ADA, "timers": QUIET} | config
    return world, office, world.client(client_config(pki, **settings))


def last(side: Side, kind: type[Any]) -> Any:
    return side.effects(kind)[-1]


def stop(side: Side) -> c.Stop:
    stopped: c.Stop = last(side, c.Stop)
    return stopped


def waits(world: World, condition: Callable[[], Any], seconds: float = 60) -> None:
    assert world.run(seconds, lambda: bool(condition())), [side.seen[-12:] for side in (world.server, *world.clients)]


# --- refusals


@pytest.mark.parametrize("message", ["AUTH_FAILED", "AUTH_FAILED,no such user", "AUTH_FAILED,SESSION:token expired"])
def test_a_refusal_ends_it(pki: Pki, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    world, office, client = scene(pki, monkeypatch, lambda _: [message])
    waits(world, lambda: client.effects(c.Stop))
    assert stop(client).kind is c.StopKind.AUTH and office.logins == [("ada", b"right")]
    assert message.rpartition(",")[2].removeprefix("SESSION:").removeprefix("AUTH_FAILED") in stop(client).reason


def test_interact_asks_again_and_tells_why(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, office, client = scene(
        pki, monkeypatch, lambda login: [] if login[1] == b"new" else ["AUTH_FAILED,wrong"], auth_retry="interact"
    )
    waits(world, lambda: client.effects(c.AskCredentials))
    assert "wrong" in last(client, c.AskCredentials).again
    client.event(c.CredentialsGiven("ada", Secret(b"new")))
    connected(world, client)
    assert office.logins == [("ada", b"right"), ("ada", b"new")]


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        ("TEMP[backoff 7]:busy", 7),
        ("TEMP[backoff 0]", 1),
        ("TEMP", 1),
        ("TEMP:busy", 1),
        ("TEMP[backoff 4294967296,advance no]:busy", MAX_BACKOFF),
        ("TEMP[backoff -5,advance sideways,frob]:busy", 1),
        ("TEMP[backoff 99999999999999999999]:busy", 1),
        ("TEMP[backoff", 1),
    ],
)
def test_come_back_later(pki: Pki, monkeypatch: pytest.MonkeyPatch, said: str, wait: float) -> None:
    answers = [[f"AUTH_FAILED,{said}"], []]
    world, office, client = scene(pki, monkeypatch, lambda _: answers.pop(0))
    waits(world, lambda: client.effects(c.CloseTransport))
    refused = world.now
    connected(world, client, wait + 5)
    assert world.now - refused == pytest.approx(wait + 0.3, abs=0.1)
    assert office.logins == [("ada", b"right")] * 2 and not client.effects(c.AskCredentials)


@pytest.mark.parametrize(
    ("advance", "order"),
    [("no", "1 1 1"), ("addr", "1 2 1"), ("remote", "1 3 1")],
)
def test_where_to_go_on(pki: Pki, monkeypatch: pytest.MonkeyPatch, advance: str, order: str) -> None:
    """A name with two addresses, then an address: 1, 2, 3."""
    remotes = (Remote("vpn.example", SERVER_AT[1], Proto.UDP), Remote("198.51.100.3", SERVER_AT[1], Proto.UDP))
    world, _, client = scene(
        pki, monkeypatch, lambda _: [f"AUTH_FAILED,TEMP[backoff 1,advance {advance}]:x"], remotes=remotes
    )
    answered = 0
    for _ in range(60):
        world.run(1)
        for effect in client.effects(c.Resolve)[answered:]:
            answered += 1
            addresses = tuple(ip_address(f"198.51.100.{n}") for n in (1, 2))
            client.event(c.NameResolved(effect.request, addresses))
    tried = [str(effect.address)[-1] for effect in client.effects(c.OpenTransport)]
    assert " ".join(tried).startswith(order[:3])


# --- questions


def test_static_challenge(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, office, client = scene(pki, monkeypatch, static_challenge=StaticChallenge("Code?", True))
    asked = last(client, c.AskChallenge)
    assert (asked.text, asked.echo, asked.wanted) == ("Code?", True, True)
    client.event(c.ChallengeAnswered(asked.request + 1, Secret(b"stale")))
    assert not client.effects(c.OpenTransport)
    client.event(c.ChallengeAnswered(asked.request, Secret(b"123456")))
    connected(world, client)
    both = b"SCRV1:" + base64.b64encode(b"right") + b":" + base64.b64encode(b"123456")
    assert office.logins == [("ada", both)]


def test_static_challenge_appended_and_asked_for_each_login(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, office, client = scene(pki, monkeypatch, static_challenge=StaticChallenge("Code?", False, concat=True))
    for code in (b"1", b"2"):
        client.event(c.ChallengeAnswered(last(client, c.AskChallenge).request, Secret(code)))
        connected(world, client)
        client.event(c.UserCommand(c.Command.RECONNECT))
    assert office.logins == [("ada", b"right1"), ("ada", b"right2")]
    assert len(client.effects(c.AskChallenge)) == 3


def test_credentials_first_then_the_question(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, office, client = scene(
        pki, monkeypatch, credentials=None, static_challenge=StaticChallenge("Code?", False, concat=True)
    )
    assert client.effects(c.AskCredentials) and not client.effects(c.AskChallenge)
    client.event(c.CredentialsGiven("bob", Secret(b"pw")))
    client.event(c.ChallengeAnswered(last(client, c.AskChallenge).request, Secret(b"9")))
    connected(world, client)
    assert office.logins == [("bob", b"pw9")]


def crv1(flags: str = "R,E", state: str = "Om01u7Fh4LrGBS7uh0SWmzwabUiGiW6l", text: str = "Enter PIN") -> str:
    return f"AUTH_FAILED,CRV1:{flags}:{state}:{base64.b64encode(b'cr1').decode()}:{text}"


@pytest.mark.parametrize("retry", ["none", "nointeract", "interact"])
def test_dynamic_challenge(pki: Pki, monkeypatch: pytest.MonkeyPatch, retry: str) -> None:
    world, office, client = scene(
        pki, monkeypatch, lambda login: [] if login[0] == "cr1" else [crv1()], auth_retry=retry
    )
    waits(world, lambda: client.effects(c.AskChallenge))
    asked = last(client, c.AskChallenge)
    assert "Enter PIN" in asked.text and asked.echo and asked.wanted
    client.event(c.ChallengeAnswered(asked.request, Secret(b"8675309")))
    connected(world, client)
    assert office.logins[-1] == ("cr1", b"CRV1::Om01u7Fh4LrGBS7uh0SWmzwabUiGiW6l::8675309")
    transfer(world, client)
    client.event(c.UserCommand(c.Command.RECONNECT))
    waits(world, lambda: len(office.logins) == 3)
    assert office.logins[-1] == ("ada", b"right"), "an answer is good once"


def test_a_longer_chain_of_questions(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = [[crv1(state=f"s{n}")] for n in range(5)] + [[]]
    world, office, client = scene(pki, monkeypatch, lambda _: replies.pop(0))
    for n in range(5):
        waits(world, lambda: len(client.effects(c.AskChallenge)) == n + 1)  # noqa: B023
        client.event(c.ChallengeAnswered(last(client, c.AskChallenge).request, Secret(b"%d" % n)))
    connected(world, client)
    assert [login[1] for login in office.logins[1:]] == [b"CRV1::s%d::%d" % (n, n) for n in range(5)]


def test_nobody_answers(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, _, client = scene(pki, monkeypatch, lambda _: [crv1(text="Enter \x7f PIN".replace("\x7f", "your"))])
    waits(world, lambda: client.effects(c.AskChallenge))
    client.event(c.ChallengeRefused(last(client, c.AskChallenge).request, "nobody to ask: Enter your PIN"))
    assert stop(client).kind is c.StopKind.CREDENTIALS and "Enter your PIN" in stop(client).reason


@pytest.mark.parametrize(
    "said",
    ["CRV1:", "CRV1:R", "CRV1:R:state", "CRV1:R:state:!!!:text", "CRV1:R:state:Y3Ix", "CRV1:R:state:/w==:text",
     "CRV1:R:" + "s" * 2049 + ":Y3Ix:text", "CRV1:R:state:GwA=:text", "CRV1"],
)  # fmt: skip
def test_a_challenge_that_is_none_is_a_refusal(pki: Pki, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    world, _, client = scene(pki, monkeypatch, lambda _: [f"AUTH_FAILED,{said}"])
    waits(world, lambda: client.effects(c.Stop))
    assert stop(client).kind is c.StopKind.AUTH and not client.effects(c.AskChallenge)


def test_an_answer_that_is_too_long_is_asked_for_again(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, _, client = scene(pki, monkeypatch, lambda _: [crv1()])
    waits(world, lambda: client.effects(c.AskChallenge))
    client.event(c.ChallengeAnswered(last(client, c.AskChallenge).request, Secret(b"x" * 5000)))
    assert len(client.effects(c.AskChallenge)) == 2 and "too long" in last(client, c.AskChallenge).text


def test_a_question_before_the_push(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = ["AUTH_PENDING,timeout 240", "INFO_PRE,CR_TEXT:R:Code from the app?"]
    world, _, client = scene(pki, monkeypatch, lambda _: pending, timers=Timers(ping=10, ping_restart=0))
    heard: list[bytes] = []
    message = Server._message

    def hear(machine: Any, peer: Any, said: Any, now: float) -> None:
        heard.extend([said.answer.reveal()] if isinstance(said, ChallengeResponse) else ())
        message(machine, peer, said, now)

    monkeypatch.setattr(Server, "_message", hear)
    waits(world, lambda: client.effects(c.AskChallenge))
    asked = last(client, c.AskChallenge)
    assert (asked.text, asked.echo) == ("Code from the app?", False)
    world.run(100)
    assert not client.effects(c.CloseTransport), "the login may take longer than the hand-window"
    client.event(c.ChallengeAnswered(asked.request, Secret(b"42")))
    world.run(1)
    assert heard == [base64.b64encode(b"42")]
    pending.clear()
    connected(world, client)
    client.event(c.ChallengeAnswered(asked.request, Secret(b"twice")))
    world.run(1)
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("message", "latest"),
    [("AUTH_PENDING,timeout 100", 101), ("AUTH_PENDING", 61), ("AUTH_PENDING,timeout 4294967296", 1801),
     ("AUTH_PENDING,timeout -1", 61), ("AUTH_PENDING,timeout 5", 60.5)],
)  # fmt: skip
def test_the_wait_for_a_login_is_bounded(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, message: str, latest: float
) -> None:
    world, _, client = scene(pki, monkeypatch, lambda _: [message], timers=Timers(ping_restart=0, reneg_sec=3600))
    waits(world, lambda: client.effects(c.CloseTransport), 2000)
    assert latest - 2 <= world.now - 1000 <= latest


def test_pending_without_end_ends(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(reneg_sec=1200)
    world, office, client = scene(pki, monkeypatch, lambda _: ["AUTH_PENDING,timeout 600"], timers=timers)
    for _ in range(20):
        if client.effects(c.CloseTransport):
            break
        world.run(60)
        if not client.effects(c.CloseTransport):
            office.say("AUTH_PENDING,timeout 600")
    assert client.effects(c.CloseTransport) and world.now - 1000 <= 60 + 600 + 60


# --- addresses to open


@pytest.mark.parametrize("url", ["https://vpn.example/login?x=1&y=%20#z", "http://[2001:db8::1]:8080/a", "https://a"])
def test_an_address_is_shown(pki: Pki, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for message in (f"INFO_PRE,WEB_AUTH::{url}", f"INFO,WEB_AUTH:hidden,external:{url}", f"INFO_PRE,OPEN_URL:{url}"):
        world, office, client = scene(pki, monkeypatch)
        connected(world, client)
        office.say(message)
        assert client.effects(c.OpenUrl) == [c.OpenUrl(url)]
        monkeypatch.undo()


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "javascript:alert(1)", "ftp://a/", "https:a", "https://", "https:///x", "//a", "",
     "https://user@evil.example/", "https://known.example@evil.example", "https://a b/", "https://a/\x1b[31m",
     "https://a/\u202e", "https://a:123456/", "HTTPS://A/", "data:text/html,x", "https://a/<script>", 'https://a/"x',
     "https://a/`x`", "https://a/" + "x" * 2048, "https://a/\\", "https://$(touch x)/"],
)  # fmt: skip
def test_an_address_that_is_not(pki: Pki, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    world, office, client = scene(pki, monkeypatch)
    connected(world, client)
    for word in ("INFO_PRE,WEB_AUTH::", "INFO_PRE,OPEN_URL:", "INFO,OPEN_URL:"):
        office.say(word + url)
    assert not client.effects(c.OpenUrl)
    for effect in client.effects(c.Drop):
        assert effect.reason.isprintable() and effect.reason.isascii() and len(effect.reason) < 300
    transfer(world, client)


# --- tokens


def test_a_token_replaces_the_password(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    user = base64.b64encode(b"ada-at-work").decode()
    world, office, client = scene(pki, monkeypatch, push=(f"auth-token {TOKEN}", f"auth-token-user {user}"))
    connected(world, client)
    client.event(c.UserCommand(c.Command.RECONNECT))
    connected(world, client)
    assert office.logins == [("ada", b"right"), ("ada-at-work", TOKEN.encode())]
    assert TOKEN not in repr(client.seen), "a token is shown nowhere"


def test_a_token_is_used_in_renegotiations_and_renewed(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, office, client = scene(pki, monkeypatch, push=(f"auth-token {TOKEN}",))
    connected(world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    waits(world, lambda: 1 in client.keys)
    office.say(f"PUSH_REPLY,auth-token {TOKEN}2,route 10.9.0.0 255.255.255.0,ifconfig 10.8.0.99 255.255.255.0")
    client.event(c.UserCommand(c.Command.RECONNECT))
    connected(world, client)
    assert [login[1].decode() for login in office.logins] == ["right", TOKEN, TOKEN + "2"]
    assert not client.effects(c.TunnelChanged), "nothing but the token is taken from a second push"


@pytest.mark.parametrize("refusal", ["AUTH_FAILED", "AUTH_FAILED,SESSION:expired"])
def test_a_refused_token_is_dropped_and_the_password_tried_once(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    world, office, client = scene(pki, monkeypatch, push=(f"auth-token {TOKEN}",))
    connected(world, client)
    office.reply = lambda login: [refusal]
    client.event(c.UserCommand(c.Command.RECONNECT))
    waits(world, lambda: client.effects(c.Stop))
    assert [login[1].decode() for login in office.logins] == ["right", TOKEN, "right"]


def test_nocache_forgets_what_was_typed(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, office, client = scene(
        pki, monkeypatch, push=(f"auth-token {TOKEN}",), credentials=None, auth_nocache=True, auth_retry="interact"
    )
    client.event(c.CredentialsGiven("ada", Secret(b"typed")))
    connected(world, client)
    office.reply = lambda login: ["AUTH_FAILED"] if login[1] == TOKEN.encode() else []
    client.event(c.UserCommand(c.Command.RECONNECT))
    waits(world, lambda: len(client.effects(c.AskCredentials)) == 2)
    assert [login[1].decode() for login in office.logins] == ["typed", TOKEN]
    machine: Any = client.machine
    assert machine._login._credentials is None


def test_nocache_without_a_token_asks_for_the_next_connection(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, _, client = scene(pki, monkeypatch, credentials=None, auth_nocache=True)
    client.event(c.CredentialsGiven("ada", Secret(b"typed")))
    connected(world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    waits(world, lambda: 1 in client.keys)
    client.event(c.UserCommand(c.Command.RECONNECT))
    assert len(client.effects(c.AskCredentials)) == 2


# --- farewells


@pytest.mark.parametrize(
    ("message", "token_kept"),
    [("RESTART", False), ("RESTART,[P]x", True), ("RESTART,[PN]x", True), ("RESTART,[N]", False)],
)
def test_restart(pki: Pki, monkeypatch: pytest.MonkeyPatch, message: str, token_kept: bool) -> None:
    world, office, client = scene(pki, monkeypatch, push=(f"auth-token {TOKEN}",))
    connected(world, client)
    world.run(60)
    office.say(message)
    assert client.effects(c.TunnelDown)
    connected(world, client)
    assert office.logins[-1][1] == (TOKEN.encode() if token_kept else b"right")


@pytest.mark.parametrize(("message", "first"), [("RESTART", "1"), ("RESTART,[P]", "1"), ("RESTART,[N]", "3")])
def test_restart_tells_where(pki: Pki, monkeypatch: pytest.MonkeyPatch, message: str, first: str) -> None:
    remotes = (Remote(SERVER_AT[0], SERVER_AT[1], Proto.UDP), Remote("198.51.100.3", SERVER_AT[1], Proto.UDP))
    world, office, client = scene(pki, monkeypatch, remotes=remotes)
    connected(world, client)
    world.run(60)
    office.say(message)
    assert str(client.effects(c.OpenTransport)[1].address)[-1] == first


def test_restart_in_a_loop_is_slowed_down(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, office, client = scene(pki, monkeypatch)
    for _ in range(8):
        connected(world, client, 400)
        office.say("RESTART")
    assert world.now - 1000 > 1 + 2 + 4 + 8 + 16 + 32 + 64


@pytest.mark.parametrize("message", ["HALT", "HALT,[N]closed", "HALT,closed for ever"])
def test_halt_is_for_good(pki: Pki, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    world, office, client = scene(pki, monkeypatch)
    connected(world, client)
    office.say(message)
    assert stop(client).kind is c.StopKind.CONNECTION and "[N]" not in stop(client).reason
    assert not up(client)
