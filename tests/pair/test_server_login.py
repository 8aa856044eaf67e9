# SPDX-License-Identifier: BSD-2-Clause
"""A server that judges user names and passwords: verdicts early, late, never; questions; tokens and their abuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, LoginRules, Pam, Proto, Timers, TokenRules
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.serving.logins import MAX_PENDING
from tests.interop.pki import Pki
from tests.pair.link import Rule, perfect, rule
from tests.pair.test_handshake import connected, transfer
from tests.pair.test_server import identity
from tests.pair.world import Side, World, client_config, policy, server_config, up

ASKING = LoginRules(Pam("login"))
TOKENS = replace(ASKING, tokens=TokenRules(lifetime=0, renewal=3600))
ADA = Credentials("ada", Secret(b"right"))
Judge = Callable[[World, c.VerifyLogin], None]


def right(world: World, asked: c.VerifyLogin) -> None:
    """Whoever says the right password may enter, half a second later."""
    good = asked.password.reveal() == b"right"
    judged = c.LoginJudged(asked.peer, asked.attempt, good, told="" if good else "wrong")
    world._at(world.now + 0.5, lambda: world.server.event(judged))


class Desk:
    """A world whose server asks `judge`; what it asked is kept."""

    def __init__(self, pki: Pki, rules: LoginRules = ASKING, judge: Judge = right, **changes: Any) -> None:
        self.pki = pki
        lost: Rule = changes.pop("lost", perfect)
        self.world = World(server_config(pki, login=rules, **changes), to_server=lost, to_client=lost)
        self.asked: list[c.VerifyLogin] = []
        apply = self.world.server._apply

        def listen(effect: c.Effect) -> None:
            if isinstance(effect, c.VerifyLogin):
                self.asked.append(effect)
                judge(self.world, effect)
            apply(effect)

        self.world.server._apply = listen  # type: ignore[method-assign]

    def client(self, credentials: Credentials | None = ADA, **changes: Any) -> Side:
        changes = {"auth_user_pass": True, "credentials": credentials, "auth_retry": "nointeract", **changes}
        proto = Proto.TCP if self.world.stream else Proto.UDP
        return self.world.client(client_config(self.pki, proto=proto, **changes))

    def notes(self) -> str:
        return "\n".join(each.text for each in self.world.server.effects(c.Notify))

    @property
    def peers(self) -> list[Any]:
        machine: Any = self.world.server.machine
        return list(machine._peers)


@pytest.mark.parametrize("proto", Proto)
def test_a_good_password_after_a_while(pki: Pki, proto: Proto) -> None:
    desk = Desk(pki, listen=replace(server_config(pki).listen, proto=proto))
    client = desk.client()
    connected(desk.world, client)
    transfer(desk.world, client)
    (asked,) = desk.asked
    assert (asked.username, asked.password.reveal(), asked.common_name) == ("ada", b"right", "qube-one")
    assert any(fact.startswith("IV_CIPHERS=") for fact in asked.facts) and asked.endpoint == client.place


@pytest.mark.parametrize("seed", range(4))
def test_with_loss(pki: Pki, seed: int) -> None:
    desk = Desk(pki, TOKENS, lost=rule("loss 20% dup 20% reorder 30%", seed))
    client = desk.client()
    assert desk.world.run(120, lambda: up(client))


def test_nothing_is_given_before_the_verdict(pki: Pki) -> None:
    desk = Desk(pki, judge=lambda world, asked: None)
    client = desk.client()
    desk.world.run(20)
    seen = {type(effect) for effect in desk.world.server.seen}
    assert not seen & {c.AddPeer, c.AssignAddresses, c.InstallKey} and not up(client)
    assert not desk.peers[0].admitted


def test_no_verdict_is_a_refusal(pki: Pki) -> None:
    desk = Desk(pki, judge=lambda world, asked: None, timers=Timers(hand_window=10))
    desk.client(auth_retry="none")
    desk.world.run(14)
    assert "no verdict in time" in desk.notes() and desk.peers == []


def test_a_wrong_password(pki: Pki) -> None:
    desk = Desk(pki)
    client = desk.client(replace(ADA, password=Secret(b"guess")), auth_retry="none")
    assert desk.world.run(20, lambda: bool(client.effects(c.Stop)))
    (stop,) = client.effects(c.Stop)
    assert stop.kind is c.StopKind.AUTH and "wrong" in stop.reason
    desk.world.run(3)
    assert desk.peers == [] and desk.world.server.effects(c.AddPeer) == []
    assert "is refused: user name or password are wrong" in desk.notes() and "guess" not in desk.notes()


def test_without_a_password(pki: Pki) -> None:
    desk = Desk(pki)
    client = desk.client(None, auth_user_pass=False)
    desk.world.run(10)
    assert desk.asked == [] and not up(client) and "no user name and password" in desk.notes()
    optional = Desk(pki, replace(ASKING, optional=True), lambda world, asked: world.soon(lambda: world.server.event(
        c.LoginJudged(asked.peer, asked.attempt, True))))  # fmt: skip
    connected(optional.world, optional.client(None, auth_user_pass=False))
    assert optional.asked[0].username == ""


def test_a_verdict_for_another_attempt_changes_nothing(pki: Pki) -> None:
    desk = Desk(pki, judge=lambda world, asked: None)
    client = desk.client()
    assert desk.world.run(10, lambda: bool(desk.asked))
    (asked,) = desk.asked
    for peer, attempt in ((asked.peer, 0), (asked.peer, asked.attempt + 1), (asked.peer + 1, asked.attempt)):
        desk.world.server.event(c.LoginJudged(peer, attempt, True))
        desk.world.server.event(c.LoginJudged(peer, attempt, False))
    assert not up(client) and desk.peers[0].judged
    desk.world.server.event(c.LoginJudged(asked.peer, asked.attempt, True))
    connected(desk.world, client)
    desk.world.server.event(c.LoginJudged(asked.peer, asked.attempt, False))
    desk.world.run(5)
    assert up(client), "a second verdict on the same attempt"


def test_a_question_of_the_judge(pki: Pki) -> None:
    """AUTH_PENDING with a text to answer: the answer reaches the judge, whose verdict counts."""

    def judge(world: World, asked: c.VerifyLogin) -> None:
        pending = c.LoginPending(asked.peer, asked.attempt, 1e9, ("INFO_PRE,CR_TEXT:R,E:One-time code",))
        world._at(world.now + 0.1, lambda: world.server.event(pending))

    desk = Desk(pki, judge=judge)
    client = desk.client()
    assert desk.world.run(20, lambda: bool(client.effects(c.AskChallenge)))
    assert desk.peers[0].judged_until <= desk.world.now + MAX_PENDING
    (question,) = client.effects(c.AskChallenge)
    client.event(c.ChallengeAnswered(question.request, Secret(b"123456")))
    assert desk.world.run(5, lambda: bool(desk.world.server.effects(c.LoginAnswered)))
    (answer,) = desk.world.server.effects(c.LoginAnswered)
    assert answer.answer.reveal() == b"MTIzNDU2"
    desk.world.server.event(c.LoginJudged(answer.peer, answer.attempt, True))
    connected(desk.world, client)


def test_a_reason_cannot_smuggle_a_message(pki: Pki) -> None:
    def judge(world: World, asked: c.VerifyLogin) -> None:
        told = "no\0PUSH_REPLY,route 0.0.0.0 0.0.0.0\n" + "é" * 2000
        world.soon(lambda: world.server.event(c.LoginJudged(asked.peer, asked.attempt, False, told)))

    desk = Desk(pki, judge=judge)
    client = desk.client(auth_retry="none")
    assert desk.world.run(20, lambda: bool(client.effects(c.Stop)))
    assert not client.effects(c.TunnelUp) and client.effects(c.Stop)[0].kind is c.StopKind.AUTH


def test_verdicts_are_numbered_for_all_together(pki: Pki) -> None:
    """A verdict that comes late is never that of another client to whom the peer's number went."""
    desk = Desk(pki, judge=lambda world, asked: None)
    first, second = desk.client(), desk.client()
    assert desk.world.run(10, lambda: len(desk.asked) == 2)
    assert len({asked.attempt for asked in desk.asked}) == 2 and not up(first) and not up(second)


def test_who_leaves_is_judged_no_more(pki: Pki) -> None:
    desk = Desk(pki, judge=lambda world, asked: None, timers=Timers(hand_window=10))
    leaving, patient = desk.client(), desk.client(auth_retry="none")
    assert desk.world.run(5, lambda: len(desk.asked) == 2)
    first, second = ((asked.peer, asked.attempt) for asked in desk.asked)
    leaving.event(c.UserCommand(c.Command.DISCONNECT))
    session: Any = desk.peers[0]
    machine: Any = desk.world.server.machine
    machine._out = []
    machine._forget(session, "left")
    assert [(each.peer, each.attempt) for each in machine._out if isinstance(each, c.ForgetLogin)] == [first]
    assert desk.world.run(20, lambda: bool(desk.world.server.effects(c.ForgetLogin)))
    (forgotten,) = desk.world.server.effects(c.ForgetLogin)
    assert (forgotten.peer, forgotten.attempt) == second and not up(patient)


# --- with and without a certificate ---------------------------------------------------------------------


def test_a_user_is_not_the_bearer_of_the_certificate_of_that_name(pki: Pki) -> None:
    """With ``verify-client-cert optional`` both are there, have addresses and files of their own, and neither replaces
    the other."""
    desk = Desk(pki, peer=replace(policy(pki, "client"), certificate="optional"))
    certified = desk.client()
    connected(desk.world, certified)
    user = desk.client(Credentials("qube-one", Secret(b"right")), identity=None)
    connected(desk.world, user)
    transfer(desk.world, certified)
    assert {each.name for each in desk.world.server.effects(c.AssignAddresses)} == {"qube-one", "user:qube-one"}
    again = desk.client(Credentials("qube-one", Secret(b"right")), identity=None, auth_retry="none")
    connected(desk.world, again)
    assert len(desk.peers) == 2, "the same user replaces himself"


@pytest.mark.parametrize(("how", "called"), [("none", "qube-one"), ("optional", "qube-one")])
def test_where_all_are_users_their_names_are_plain(pki: Pki, how: str, called: str) -> None:
    rules = replace(ASKING, name_is_username=how == "optional")
    desk = Desk(pki, rules, peer=replace(policy(pki, "client"), certificate=how))
    connected(desk.world, desk.client(Credentials("qube-one", Secret(b"right")), identity=None))
    assert [each.name for each in desk.world.server.effects(c.AssignAddresses)] == [called]


def test_a_certificate_that_is_called_like_a_user(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qubes_miragevpn.protocol.serving.peer.USER", "qube-")
    desk = Desk(pki, peer=replace(policy(pki, "client"), certificate="optional"))
    client = desk.client()
    desk.world.run(10)
    assert not up(client) and desk.asked == [] and "may not begin with" in desk.notes()


# --- renegotiation and tokens -----------------------------------------------------------------------------


def renegotiate(desk: Desk, client: Side) -> None:
    before = len(client.effects(c.InstallKey))
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert desk.world.run(30, lambda: len(client.effects(c.InstallKey)) > before)
    desk.world.run(3)


def in_turn(*verdicts: bool) -> Callable[[World, c.VerifyLogin], None]:
    """A judge who says these, one after the other."""
    left = iter(verdicts)

    def judge(world: World, asked: c.VerifyLogin) -> None:
        judged = c.LoginJudged(asked.peer, asked.attempt, next(left))
        world.soon(lambda: world.server.event(judged))

    return judge


def test_a_renegotiation_is_judged_again(pki: Pki) -> None:
    desk = Desk(pki, judge=in_turn(True, True, False))
    client = desk.client(auth_retry="none")
    connected(desk.world, client)
    renegotiate(desk, client)
    transfer(desk.world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert desk.world.run(30, lambda: bool(client.effects(c.Stop)))
    desk.world.run(3)
    assert len(desk.asked) == 3 and desk.peers == []


def test_a_refused_client_is_served_no_more(pki: Pki) -> None:
    """Its packets go nowhere from the refusal on, and it is forgotten; what it says is why, not "gone"."""
    desk = Desk(pki, judge=in_turn(True, False))
    client = desk.client(auth_retry="none")
    connected(desk.world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert desk.world.run(30, lambda: "is refused" in desk.notes())
    (peer,) = desk.peers
    assert peer.refused and not peer.served
    assert [each.peer for each in desk.world.server.effects(c.RemovePeer)] == [peer.number]
    assert desk.world.run(5, lambda: bool(client.effects(c.Stop))), "it is told"
    desk.world.run(3)
    assert desk.peers == [] and len(desk.world.server.effects(c.RemovePeer)) == 1


def test_a_bad_token_brings_no_new_key(pki: Pki) -> None:
    desk = Desk(pki, replace(TOKENS, tokens=TokenRules(lifetime=100, renewal=0)))
    client = desk.client(auth_retry="none")
    connected(desk.world, client)
    desk.world.run(200)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert desk.world.run(30, lambda: "older than its lifetime" in desk.notes())
    assert len(desk.world.server.effects(c.InstallKey)) == 1 and desk.world.server.effects(c.RemovePeer)


@pytest.mark.parametrize("admitted", [False, True])
def test_a_server_renews_no_keys_while_it_waits_for_a_verdict(pki: Pki, admitted: bool) -> None:
    """``reneg-sec`` shorter than a login that takes its time: the login goes on, and the renewal comes after it."""

    def judge(world: World, asked: c.VerifyLogin) -> None:
        at_once = admitted and asked is desk.asked[0]
        judged = c.LoginJudged(asked.peer, asked.attempt, True)
        pending = c.LoginPending(asked.peer, asked.attempt, 300.0)
        world.soon(lambda: world.server.event(judged if at_once else pending))
        if not at_once and len(desk.asked) < 3:
            world._at(world.now + 100, lambda: world.server.event(judged))

    desk = Desk(pki, judge=judge, timers=Timers(reneg_sec=20, reneg_sec_least=20, ping=10, ping_restart=0))
    client = desk.client(timers=Timers(reneg_sec=1000, ping_restart=0))
    assert desk.world.run(30, lambda: bool(desk.asked))
    before = 1
    if admitted:
        connected(desk.world, client)
        assert desk.world.run(60, lambda: len(desk.asked) == 2), "the server's own renewal is judged"
        before = 2
    asked_at = desk.world.now
    desk.world.server.event(c.UserCommand(c.Command.RENEGOTIATE))
    desk.world.server.event(c.KeyExhausted(desk.asked[0].peer, 0))
    assert desk.world.run(300, lambda: len(desk.asked) > before)
    assert desk.world.now - asked_at > 99 and up(client) and "refused" not in desk.notes()
    assert len(desk.peers) == 1


def test_nobody_renegotiates_before_there_is_a_key_in_use(pki: Pki) -> None:
    """Asked to while its login is judged, a client does not; it works once it is let in, and renews its key then."""
    desk = Desk(pki, judge=lambda _world, _asked: None)
    client = desk.client(auth_retry="none")
    machine: Any = client.machine
    assert desk.world.run(10, lambda: bool(desk.asked))
    desk.world.run(2)
    machine._state.renegotiate(desk.world.now)
    client.event(c.TimerExpired())
    desk.world.run(10)
    ((asked,), (peer,)) = desk.asked, desk.peers
    assert peer.judged and not up(client)
    desk.world.server.event(c.LoginJudged(asked.peer, asked.attempt, True))
    connected(desk.world, client)
    transfer(desk.world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert desk.world.run(20, lambda: len(desk.asked) == 2), "the new key's login is judged as any other's"
    desk.world.server.event(c.LoginJudged(asked.peer, desk.asked[1].attempt, True))
    desk.world.run(5)
    transfer(desk.world, client)
    assert len(client.keys) == 2 and len(desk.peers) == 1


def test_nobody_puts_his_verdict_off_by_renegotiating(pki: Pki) -> None:
    """Each renegotiation would need a verdict of its own, and the one before it, a refusal, would be nobody's."""

    def judge(world: World, asked: c.VerifyLogin) -> None:
        if asked is desk.asked[0]:
            world.soon(lambda: world.server.event(c.LoginJudged(asked.peer, asked.attempt, True)))

    desk = Desk(pki, judge=judge)
    client = desk.client(auth_retry="none")
    machine: Any = client.machine
    connected(desk.world, client)
    desk.world.run(2)
    for _ in range(3):
        machine._state.renegotiate(desk.world.now)
        client.event(c.TimerExpired())
        desk.world.run(3)
        if "renegotiates while its login is judged" in desk.notes():
            break
    assert len(desk.asked) == 2 and "renegotiates while its login is judged" in desk.notes()
    assert len(desk.world.server.effects(c.ForgetLogin)) == 1


def test_the_operator_puts_no_verdict_off(pki: Pki) -> None:
    desk = Desk(pki, judge=lambda world, asked: None)
    client = desk.client()
    assert desk.world.run(10, lambda: bool(desk.asked))
    desk.world.run(2)
    desk.world.server.event(c.UserCommand(c.Command.RENEGOTIATE))
    desk.world.run(3)
    (asked,) = desk.asked
    desk.world.server.event(c.LoginJudged(asked.peer, asked.attempt, True))
    connected(desk.world, client)


def test_a_token_takes_the_passwords_place(pki: Pki) -> None:
    desk = Desk(pki, TOKENS)
    client = desk.client()
    connected(desk.world, client)
    renegotiate(desk, client)
    transfer(desk.world, client)
    client.event(c.UserCommand(c.Command.RECONNECT))
    connected(desk.world, client)
    transfer(desk.world, client)
    assert len(desk.asked) == 1, "the password was judged once"


def test_an_old_token_sends_back_to_the_password(pki: Pki) -> None:
    desk = Desk(pki, replace(TOKENS, tokens=TokenRules(lifetime=100, renewal=0)))
    client = desk.client()
    connected(desk.world, client)
    desk.world.run(200)
    client.event(c.UserCommand(c.Command.RECONNECT))
    assert desk.world.run(60, lambda: len(desk.asked) == 2)
    connected(desk.world, client)
    assert "older than its lifetime" in desk.notes()


@pytest.mark.parametrize("rest", [b"", b"A" * 80, b"!", b"A" * 79])
def test_tokens_of_somebodys_own_making(pki: Pki, rest: bytes) -> None:
    desk = Desk(pki, TOKENS)
    client = desk.client(Credentials("ada", Secret(b"SESS_ID_AT_" + rest)), auth_retry="none")
    desk.world.run(20)
    assert desk.asked == [] and not up(client) and "session token" in desk.notes()


def test_a_token_is_good_for_its_owner_alone(pki: Pki) -> None:
    """Another user's token, and the right user's on another certificate: neither enters."""
    desk = Desk(pki, TOKENS)
    connected(desk.world, desk.client())
    (push,) = [peer for peer in desk.peers if peer.admitted]
    machine: Any = desk.world.server.machine
    machine._logins._renew(push)
    stolen = Secret(push.extra[0].removeprefix("auth-token ").encode())
    for credentials, pem in ((Credentials("eve", stolen), pki.client), (Credentials("ada", stolen), pki.second_client)):
        thief = desk.client(credentials, identity=identity(pem), auth_retry="none")
        desk.world.run(10)
        assert not up(thief)
    assert len(desk.asked) == 1 and desk.notes().count("the session token is not ours") == 2


def test_without_tokens_what_looks_like_one_is_a_password(pki: Pki) -> None:
    desk = Desk(pki)
    desk.client(Credentials("ada", Secret(b"SESS_ID_AT_AAAA")), auth_retry="none")
    assert desk.world.run(10, lambda: bool(desk.asked))
