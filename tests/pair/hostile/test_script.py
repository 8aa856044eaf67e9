# SPDX-License-Identifier: BSD-2-Clause
"""Scripts that nobody wrote: a malicious server does by dice what the others do by plan, inside and outside of TLS.

Whatever comes of it, no event raises, texts are printable, nothing grows beyond its bound (`require_sound`), and a
client that is left alone afterwards ends or goes on, and tells when.
"""

from __future__ import annotations

import random

import pytest
from OpenSSL import SSL

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, Proto
from qubes_miragevpn.dataplane.interface import CompressedDropped, KeyExhausted, KeyInUse, OccMessage, PeerSilent
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.wire import keymethod2
from qubes_miragevpn.protocol.wire.packet import Opcode
from tests.interop.pki import Pki
from tests.pair.hostile.means.rogue import HELLO, PUSH, SID, Rogue

MESSAGES = (
    PUSH, PUSH + ",peer-id 7,protocol-flags cc-exit tls-ekm dyn-tls-crypt", PUSH + ",push-continuation 2",
    "PUSH_UPDATE,route 10.2.0.0 255.255.0.0", "PUSH_UPDATE,-route,?x", "PUSH_UPDATE,-ifconfig",
    "AUTH_PENDING,timeout 9",
    "AUTH_FAILED", "AUTH_FAILED,SESSION:x", "AUTH_FAILED,TEMP[backoff 3,advance no]:x", "RESTART,[PN]x", "EXIT",
    "AUTH_FAILED,CRV1:R,E:state:YWRh:Code?", "INFO_PRE,CR_TEXT:R:Code?", "INFO,WEB_AUTH::https://a.example/x",
    "INFO,OPEN_URL:https://a.example/", "PUSH_REPLY,auth-token SESS_ID_AT_x", "PUSH_REQUEST",
    "CR_RESPONSE,eA==", "HALT",
)  # fmt: skip
WORDS = (b"", b"\0", b",", b":", b"[", b"]", b"-", b"?", b" ", b"\xff", "\u202e".encode(), b"\x1b", b"9" * 30, b"R")
RARE = ("HALT",)  # after which nothing follows


def bent(dice: random.Random, text: bytes) -> bytes:
    """`text`, with some of it cut, doubled or replaced."""
    for _ in range(dice.choice((0, 0, 1, 1, 2, 5))):
        at = dice.randrange(len(text) + 1)
        end = min(at + dice.randrange(12), len(text))
        text = text[:at] + dice.choice((dice.choice(WORDS), text[at:end] * 2)) + text[end:]
    return text[:16383]


def step(rogue: Rogue, dice: random.Random) -> None:
    """One thing, at random."""
    what = dice.choice(("say", "say", "say", "say", "hello", "packet", "packet", "renew", "wait", "event", "tls"))
    match what:
        case "say":
            message = dice.choice([m for m in MESSAGES if m not in RARE or dice.random() < 0.2])
            rogue.record((bent(dice, message.encode()) + b"\0")[-16384:])
        case "hello":
            rogue.record(bent(dice, keymethod2.encode(HELLO)) or b"x")
        case "packet":
            opcode = dice.choice((Opcode.CONTROL, Opcode.ACK, Opcode.SOFT_RESET, Opcode.HARD_RESET_SERVER))
            message_id = None if opcode is Opcode.ACK else dice.choice((0, 1, 2, rogue.line.sent, 2**32 - 1))
            acks = tuple(dice.choice((0, 1, 2, 3, 2**32 - 1)) for _ in range(dice.randrange(9)))
            noise = b"" if message_id is None else dice.randbytes(dice.choice((0, 0, 5, 900)))
            sid = dice.choice((SID, SID, b"another!"))
            rogue.throw(opcode, message_id, noise, key_id=dice.choice((0, 0, 1, 7)), acks=acks, sid=sid)
        case "renew":
            rogue.renegotiate(both=dice.random() < 0.3)
        case "wait":
            rogue.wait(dice.choice((0.1, 1, 5, 70)))
        case "event":
            key = dice.randrange(3)
            events = (KeyExhausted(0, key), KeyInUse(0, key), PeerSilent(0), OccMessage(0, dice.randbytes(9), 99),
                      CompressedDropped(0, "x"), c.UserCommand(c.Command.RENEGOTIATE))  # fmt: skip
            rogue.event(dice.choice(events))
        case "tls":
            rogue.speak(dice.randbytes(dice.choice((1, 30, 3000))))


@pytest.mark.parametrize("proto", Proto)
@pytest.mark.parametrize("group", range(5))
def test_by_dice(pki: Pki, group: int, proto: Proto) -> None:
    reached = {type(effect) for seed in range(5) for effect in play(pki, random.Random(5 * group + seed), proto).seen}
    assert reached >= {c.TunnelUp, c.TunnelDown, c.ActivateKey, c.Drop}, "the dice lead far enough"
    assert reached & {c.AskChallenge, c.TunnelChanged, c.OpenUrl, c.RetireKey}


def play(pki: Pki, dice: random.Random, proto: Proto) -> Rogue:
    """One script, and what the client made of it."""
    login = {"auth_user_pass": True, "credentials": Credentials("ada", Secret(b"hunter2")), "auth_retry": "nointeract"}
    rogue = Rogue(pki, proto=proto, **login)
    for _ in range(12):
        dice.choice((rogue.reset, rogue.handshake, rogue.established, rogue.working, rogue.working))()
        for _ in range(dice.randrange(15)):
            if rogue.lost:
                break
            try:
                step(rogue, dice)
            except SSL.Error:
                break  # our own library cannot say this
        if rogue.effects(c.Stop):
            break
        before = len(rogue.effects(c.OpenTransport))
        if not rogue.lost:
            rogue.event(c.UserCommand(c.Command.RECONNECT))
        for _ in range(40):
            if len(rogue.effects(c.OpenTransport)) > before:
                break
            for asked in rogue.effects(c.AskChallenge)[-1:]:
                rogue.event(c.ChallengeAnswered(asked.request, Secret(b"1")))
            rogue.wait(100)
        assert len(rogue.effects(c.OpenTransport)) > before, "it goes on"
        rogue.begin()
    assert "hunter2" not in rogue.said()
    return rogue
