# SPDX-License-Identifier: BSD-2-Clause
"""An authenticated server that says too much, the same thing for ever, or what nobody should show or follow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, Proto, Remote, Timers
from qubes_miragevpn.config.pushed.reply import MAX_DROPPED
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.conversation import PATIENCE
from qubes_miragevpn.protocol.pushes import MAX_NOTES
from qubes_miragevpn.protocol.remotes import MAX_BACKOFF
from tests.interop.pki import Pki
from tests.pair.hostile.means.rogue import PUSH, Rogue, tls_context
from tests.pair.world import SERVER_AT

QUIET = Timers(ping_restart=0, reneg_sec=0)
LOGIN = {"auth_user_pass": True, "credentials": Credentials("ada", Secret(b"hunter2"))}
LONG = 16383  # with its NUL a whole TLS record


def shown(rogue: Rogue) -> list[str]:
    """What reached the user's eyes."""
    return [str(e) for e in rogue.seen if isinstance(e, c.Notify | c.AskChallenge | c.OpenUrl | c.AskCredentials)]


def waiting(pki: Pki, **config: object) -> Rogue:
    return Rogue(pki, **config).established()


def working(pki: Pki, **config: object) -> Rogue:
    return Rogue(pki, **config).working()


STAGES: tuple[Callable[..., Rogue], ...] = (waiting, working)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "message",
    ["INFO,chatter", "INFO_PRE,chatter", "what is this", "INFO_PRE,CR_TEXT:R:Code?", "INFO,CR_TEXT:E:Read this",
     "INFO_PRE,WEB_AUTH::https://a.example/", "INFO,OPEN_URL:https://a.example/", "AUTH_PENDING",
     "AUTH_PENDING,timeout 2147483648", "PUSH_REPLY,auth-token abcdefgh", "CR_RESPONSE,x", "ACC,a,b,1,c"],
)  # fmt: skip
def test_chatter_without_end_is_cut_off(pki: Pki, stage: Callable[..., Rogue], message: str) -> None:
    """A thousand messages at once: a few are shown, no question is asked more often than that, nothing ends."""
    rogue = stage(pki, timers=QUIET)
    if message.startswith("PUSH_REPLY"):
        rogue.say(PUSH) if not rogue.up else None
    before = len(shown(rogue))
    for _ in range(100):
        rogue.record((message.encode() + b"\0") * 10)
    assert 0 <= len(shown(rogue)) - before <= PATIENCE.most
    assert not rogue.lost and any(isinstance(effect, c.Drop) for effect in rogue.seen)
    rogue.wait(PATIENCE.period + 1)
    if rogue.lost:
        assert stage is waiting  # nothing was pushed in time
        return
    before = len(shown(rogue))
    rogue.say(message, message, message)
    if not message.startswith(("AUTH_PENDING", "CR_RESP")):
        assert len(shown(rogue)) > before, "an honest server is heard again"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "message",
    [
        b"INFO," + b"x" * (LONG - 5), b"x" * LONG, b"AUTH_PENDING,timeout " + b"9" * (LONG - 21), b"," * LONG,
        b"PUSH_UPDATE" * 1489, b"INFO_PRE,CR_TEXT:R:" + b"y" * (LONG - 19), b"INFO,WEB_AUTH::https://" + b"a" * 16000,
        b"INFO,OPEN_URL:https://a/" + b"%" * 16000, b"PUSH_REPLY," + b"push-continuation 2," * 800,
        b"\xff" * LONG, b"INFO,\xc2\x9b31m\xe2\x80\xae" * 1000, b"\x80", b"\t", b"\x7f", b"INFO,\x1b]0;title\x07",
        b"\r\n", b"\0\0\0\0", b"a\0b\0c\0" * 5, b"x\0" * 8000,
    ],
    ids=lambda message: repr(message[:20]),
)  # fmt: skip
def test_messages_of_any_size_and_content(pki: Pki, stage: Callable[..., Rogue], message: bytes) -> None:
    rogue = stage(pki, timers=QUIET)
    rogue.record(message[:16384], (message[: LONG - 1] + b"\0")[:16384])
    assert not rogue.lost, rogue.said()
    for text in shown(rogue):
        assert text.isascii() and text.isprintable() and len(text) < 3000
    assert not rogue.effects(c.OpenUrl)
    if stage is waiting:
        rogue.say(PUSH)
    assert rogue.up


def test_a_message_without_its_nul_is_not_joined_with_the_next(pki: Pki) -> None:
    rogue = working(pki)
    rogue.record(b"HA", b"LT\0", b"EX", b"IT\0", b"AUTH_FAILED")
    assert rogue.up


def test_pending_every_second_for_ever_ends(pki: Pki) -> None:
    """AUTH_PENDING again and again prolongs the wait up to a bound that no message moves."""
    rogue = waiting(pki, timers=Timers(reneg_sec=3600))
    began = rogue.now
    while not rogue.lost:
        rogue.say("AUTH_PENDING,timeout 4294967295")
        rogue.wait(1)
        assert rogue.now - began < 60 + 1800 + 2
    assert rogue.now - began > 1800
    assert len(shown(rogue)) < 2000


@pytest.mark.parametrize("more", ["", ",push-continuation 2", ",push-continuation 1"])
def test_a_hundred_replies(pki: Pki, more: str) -> None:
    """To a working tunnel nothing is pushed but a token: addresses, routes, ciphers stay, however often."""
    rogue = working(pki, timers=QUIET)
    pushed = len(rogue.effects(c.TunnelUp)), len(rogue.effects(c.InstallKey)), len(rogue.effects(c.AddPeer))
    for n in range(100):
        rogue.say(
            f"PUSH_REPLY,ifconfig 10.9.0.{n + 1} 255.255.255.0,route 10.{n}.0.0 255.255.0.0,cipher AES-256-GCM{more}"
        )
    assert rogue.up and not rogue.effects(c.TunnelChanged)
    assert pushed == (len(rogue.effects(c.TunnelUp)), len(rogue.effects(c.InstallKey)), len(rogue.effects(c.AddPeer)))


@pytest.mark.parametrize("word", ["PUSH_REPLY", "PUSH_UPDATE"])
def test_continuations_of_maximal_size_are_bounded(pki: Pki, word: str) -> None:
    rogue = waiting(pki, timers=QUIET) if word == "PUSH_REPLY" else working(pki, timers=QUIET)
    for _ in range(20):
        routes = ",".join(f"route 10.{n % 256}.{n // 256}.0 255.255.255.0" for n in range(400))
        rogue.say(f"{word},{routes},push-continuation 2")
    assert rogue.lost and not rogue.effects(c.TunnelChanged) and "without end" in rogue.said()


@pytest.mark.parametrize(
    "update",
    ["?-route", "-", "?", "-?", "-?unknown", "?-?route", "-ifconfig", "cipher none", "peer-id 1", "key-derivation x",
     "protocol-flags aead-epoch", "auth-token a", "up /bin/sh", "ifconfig 10.9.0.9 0.0.0.0", "tun-mtu 1", "-" * 16000,
     "route-gateway \u202e", "?" * 16000],
)  # fmt: skip
def test_updates_that_are_none(pki: Pki, update: str) -> None:
    """The tunnel ends or stays exactly as it was; a thousand a second end it."""
    rogue = working(pki, timers=QUIET)
    before = rogue.effects(c.TunnelUp)[0].settings
    for _ in range(30):
        rogue.say(f"PUSH_UPDATE,{update}")
    assert rogue.lost or not rogue.effects(c.TunnelChanged)
    assert all(changed.settings.ipv4 in (before.ipv4, None) for changed in rogue.effects(c.TunnelChanged))
    assert len(rogue.effects(c.InstallKey)) == 1
    assert all(text.isascii() and text.isprintable() for text in shown(rogue))


@pytest.mark.parametrize(
    "word", ["?a", "?nonsense-{n} x", "route 10.0.{n}", "dhcp-option DNS x{n}", "dns server {n} address ;"]
)
def test_an_update_of_thousands_of_options_makes_few_lines(pki: Pki, word: str) -> None:
    rogue = working(pki, timers=QUIET)
    options = ",".join(word.format(n=n) for n in range(16000 // (len(word) + 4)))
    for _ in range(30):
        before = len(shown(rogue))
        rogue.say(f"PUSH_UPDATE,{options}")
        assert len(shown(rogue)) - before <= 2 * MAX_NOTES + 2


def test_renewals_without_end_make_few_lines(pki: Pki) -> None:
    rogue = working(pki, timers=QUIET)
    for _ in range(60):
        rogue.renegotiate().introduce()
    assert len(rogue.effects(c.InstallKey)) == 61 and rogue.said().count("renegotiated") == PATIENCE.most


@pytest.mark.parametrize("kind", ["route 10.0.{n}", "up /bin/{n}", "dhcp-option DNS x{n}", "setenv A{n} \x1b"])
def test_a_push_of_thousands_of_options_without_effect(pki: Pki, kind: str) -> None:
    rogue = waiting(pki, timers=QUIET)
    before = len(shown(rogue))
    options = ",".join(kind.format(n=n) for n in range(600))
    rogue.say(PUSH + ",ping 10," + options.replace("\x1b", ""))
    assert rogue.up and len(shown(rogue)) - before <= MAX_DROPPED + 3


# --- ends, and what the client does then


REMOTES = (Remote(SERVER_AT[0], SERVER_AT[1], Proto.UDP), Remote("198.51.100.9", 1194, Proto.UDP))


@pytest.mark.parametrize("backoff", ["0", "2147483648", "4294967295", "99999999999", "-5", "1e9", "x"])
def test_told_to_come_back(pki: Pki, backoff: str) -> None:
    rogue = waiting(pki, **LOGIN)
    rogue.say(f"AUTH_FAILED,TEMP[backoff {backoff},advance no]:busy")
    assert rogue.lost and not rogue.effects(c.Stop)
    deadline = rogue.machine.next_deadline()
    assert deadline is not None and 1 <= deadline - rogue.now <= MAX_BACKOFF


@pytest.mark.parametrize("message", ["RESTART", "RESTART,[P]x", "EXIT", "AUTH_FAILED,TEMP:later", "RESTART,[N]x"])
def test_in_a_loop_the_pauses_grow(pki: Pki, message: str) -> None:
    rogue = working(pki, **LOGIN)
    pauses = []
    for _ in range(8):
        rogue.say(message)
        assert rogue.lost
        began, opened = rogue.now, len(rogue.effects(c.OpenTransport))
        while len(rogue.effects(c.OpenTransport)) == opened:
            rogue.wait(1)
        pauses.append(rogue.now - began)
        rogue.begin()
        rogue.working()
    assert pauses == sorted(pauses) and sum(pauses) > 1 + 2 + 4 + 8 + 16 + 32


@pytest.mark.parametrize("message", ["RESTART,[N]", "AUTH_FAILED,TEMP[advance remote]:x", "RESTART", "EXIT"])
def test_another_remote_learns_nothing_that_it_need_not(pki: Pki, message: str) -> None:
    """Sent elsewhere, the client says its password inside TLS only, after it has verified that server too."""
    rogue = waiting(pki, remotes=REMOTES, **LOGIN)
    rogue.say(message)
    rogue.wait(2)
    assert rogue.effects(c.OpenTransport)[-1].address != rogue.effects(c.OpenTransport)[0].address
    rogue.context = tls_context(pki, who=pki.foreign_server)
    rogue.packets.clear()
    rogue.begin()
    rogue.handshake()
    assert rogue.lost and b"hunter2" not in b"".join(rogue.packets)
    assert "certificate refused" in rogue.said() and "hunter2" not in rogue.said()


@pytest.mark.parametrize(
    "challenge",
    ["", ":", "R:x", "R,E:state:!!!:Code", "R:state:YWRh", "R:" + "s" * 3000 + ":YWRh:Code", "R:s:YQBi:Code",
     "R:s:" + "YWFh" * 400 + ":Code", "R:s://///w==:Code", "R:s:YWRh\u202e:Code"],
)  # fmt: skip
def test_challenges_that_are_none_are_refusals(pki: Pki, challenge: str) -> None:
    rogue = waiting(pki, auth_retry="none", **LOGIN)
    rogue.say(f"AUTH_FAILED,CRV1:{challenge}")
    assert rogue.lost and not rogue.effects(c.AskChallenge)
    assert rogue.effects(c.Stop)[0].kind is c.StopKind.AUTH


@pytest.mark.parametrize(
    "question", ["R:\x9b31m", "R:" + "?" * 15000, "R,E,R,E:" * 900, ":", "R", "", "E:\u202etxet", "x" * 9000 + ":y"]
)
def test_questions_are_shown_printable_and_short(pki: Pki, question: str) -> None:
    rogue = waiting(pki, timers=QUIET)
    rogue.say(f"INFO_PRE,CR_TEXT:{question}")
    assert not rogue.lost
    for asked in rogue.effects(c.AskChallenge):
        assert asked.text.isascii() and asked.text.isprintable() and len(asked.text) <= 600


@pytest.mark.parametrize("token", ["x" * 4096, "x" * 15000, "", "a b", "\x80\xff", "SESS_ID_AT_", "SESS_ID_AT_AAA"])
def test_tokens_of_any_kind(pki: Pki, token: str) -> None:
    """Too long a token is not taken; any other is data that goes back as it came."""
    rogue = working(pki, **LOGIN)
    rogue.say(f'PUSH_REPLY,auth-token "{token}"')
    if not rogue.lost:
        rogue.renegotiate()
        assert rogue.up
    assert not token or token not in rogue.said()
