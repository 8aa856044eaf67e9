# SPDX-License-Identifier: BSD-2-Clause
"""What is said to proxies, byte by byte, and what is not taken from one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, HttpProxy
from qubes_miragevpn.runtime.sockets.proxies import http, socks
from qubes_miragevpn.runtime.sockets.proxies.refusal import LoginRefused

MUFASA = Credentials("Mufasa", Secret(b"Circle of Life"))
PROXY = HttpProxy("p", 3128, MUFASA, frozenset({"basic", "digest"}))
HERE = IPv4Address("192.0.2.8")


def entropy(size: int) -> bytes:
    return bytes(range(size))


# --- HTTP -----------------------------------------------------------------------------------------------


def test_the_request() -> None:
    proxy = HttpProxy("p", 1, version="1.1", headers=(("User-Agent", "x y"),))
    assert http.request("[2001:db8::1]:443", proxy, "Basic abc") == (
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nUser-Agent: x y\r\n"
        b"Proxy-Authorization: Basic abc\r\n\r\n"
    )
    assert http.request("a:1", HttpProxy("p", 1)) == b"CONNECT a:1 HTTP/1.0\r\nHost: a:1\r\n\r\n"


@pytest.mark.parametrize(("host", "said"), [("a.example", "a.example:7"), ("2001:db8::1", "[2001:db8::1]:7")])
def test_authority(host: str, said: str) -> None:
    assert http.authority(host, 7) == said


def test_an_answer_in_any_pieces_is_the_same() -> None:
    text = b"HTTP/1.0 407 Who are you?\r\nproxy-AUTHENTICATE:  Basic realm=x \r\nX: y\r\n\r\n"
    for size in (1, 2, 3, 7, len(text)):
        reader = http.HeadReader()
        answers = [reader.feed(text[at : at + size]) for at in range(0, len(text), size)]
        assert [answer for answer in answers if answer] == [http.Answer(407, "Who are you?", ("Basic realm=x",))]


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 x\r\n\r\n",
        b"HTTP/1.1 999 x\r\n\r\n",
        b"HTTP/1.1 +20 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * http.MAX_HEAD,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * http.MAX_HEAD + b"\r\n\r\n",
        b"\r\n" * 5,
    ],
)
def test_answers_that_are_none(text: bytes) -> None:
    for size in (1, len(text)):
        reader = http.HeadReader()
        with pytest.raises(PeerError):
            for at in range(0, len(text), size):
                assert reader.feed(text[at : at + size]) is None


def test_the_server_does_not_speak_first() -> None:
    with pytest.raises(PeerError, match="something after its answer"):
        http.HeadReader().feed(b"HTTP/1.1 200 OK\r\n\r\n\x00\x0e")


def test_a_head_that_never_ends_costs_no_more_than_its_bound() -> None:
    reader = http.HeadReader()
    reader.feed(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(PeerError, match="more than"):
        for _ in range(1 << 20):
            reader.feed(b"X: y\r\n")


def test_what_the_proxy_says_is_shown_harmlessly() -> None:
    answer = http.parse_head(b"HTTP/1.1 403 \x1b[31mno" + b"x" * 500)
    assert answer.reason.startswith("\\x1b[31mno") and len(answer.reason) < 100


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        (
            'Basic realm="a", Digest realm="b", nonce=c',
            [("basic", {"realm": "a"}), ("digest", {"realm": "b", "nonce": "c"})],
        ),
        ("NTLM", [("ntlm", {})]),
        ("Negotiate, NTLM, Basic realm=x", [("negotiate", {}), ("ntlm", {}), ("basic", {"realm": "x"})]),
        (r'Digest realm="say \"hi\"", NONCE="\\"', [("digest", {"realm": 'say "hi"', "nonce": "\\"})]),
        ('Digest realm="open', [("digest", {})]),
        ("", []),
        (",,,", []),
        ("\x00", []),
    ],
)  # fmt: skip
def test_challenges(value: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert [(each.scheme, dict(each.parameters)) for each in http.parse_challenges((value,))][: len(found)] == found


@pytest.mark.parametrize("value", ["Basic " * 5000, 'Digest a="' + '\\"' * 8000, "Digest " + "a=b," * 4000, "=" * 9000])
def test_hostile_challenges_are_cheap(value: str) -> None:
    assert len(http.parse_challenges((value,) * http.MAX_CHALLENGES)) <= http.MAX_CHALLENGES


def answered(*values: str, proxy: HttpProxy = PROXY) -> tuple[str, str]:
    return http.authorize(http.Answer(407, "", values), "a.example:443", proxy, entropy)


def test_basic_is_rfc_7617_s() -> None:
    credentials = Credentials("Aladdin", Secret(b"open sesame"))
    assert http.basic(credentials) == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


def test_digest_is_preferred_and_basic_only_where_allowed() -> None:
    assert answered('Basic realm="r"', 'Digest realm="r", nonce="n"')[0] == "digest"
    assert answered('Basic realm="r"')[0] == "basic"
    careful = HttpProxy("p", 1, MUFASA, frozenset({"digest"}))
    with pytest.raises(PeerError, match="by basic; the profile allows digest"):
        answered('Basic realm="r"', proxy=careful)


@pytest.mark.parametrize(
    "value",
    [
        'Digest realm="r"',  # no nonce
        'Digest realm="r", nonce=""',
        'Digest nonce="n"',
        'Digest realm="r", nonce="n", algorithm=CRC32',
        'Digest realm="r", nonce="n", qop="auth-int"',
        "NTLM TlRMTVNTUAACAAAADAAMADgAAAA=",
        "",
    ],
)
def test_a_challenge_that_cannot_be_met_is_refused(value: str) -> None:
    with pytest.raises(PeerError, match="the profile allows basic or digest"):
        answered(value)


def test_the_user_is_asked_for_a_password_that_could_be_shown_and_for_no_other() -> None:
    asking = HttpProxy("p", 1, methods=frozenset({"digest"}), asks=True)
    with pytest.raises(LoginRefused, match="by digest"):
        answered('Basic realm="r"', 'Digest realm="r", nonce="n"', proxy=asking)
    with pytest.raises(PeerError, match="by basic; the profile allows digest") as refusal:
        answered('Basic realm="r"', proxy=asking)
    assert not isinstance(refusal.value, LoginRefused)


def test_without_credentials_the_proxy_is_told_nothing() -> None:
    with pytest.raises(PeerError, match="the profile holds none"):
        answered('Basic realm="r"', proxy=HttpProxy("p", 1))


def test_digest_without_quality_is_rfc_2069_s() -> None:
    # HA1 = MD5(Mufasa:testrealm@host.com:Circle of Life), computed by hand with md5sum
    challenge = http.Challenge("digest", {"realm": "r", "nonce": "n", "opaque": 'o"'})
    said = http.digest(challenge, "a:1", MUFASA, "c")
    assert 'response="' + _md5(f"{_md5('Mufasa:r:Circle of Life')}:n:{_md5('CONNECT:a:1')}") + '"' in said
    assert r'opaque="o\""' in said and "cnonce" not in said


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "MD5-sess", "sha-256-SESS"])
def test_digest_with_quality(algorithm: str) -> None:
    challenge = http.Challenge("digest", {"realm": "r", "nonce": "n", "qop": "auth-int, auth", "algorithm": algorithm})
    said = http.digest(challenge, "a:1", MUFASA, "c")
    hashed = _sha256 if "256" in algorithm else _md5
    secret = hashed("Mufasa:r:Circle of Life")
    if algorithm.lower().endswith("sess"):
        secret = hashed(f"{secret}:n:c")
    assert f'response="{hashed(f"{secret}:n:00000001:c:auth:" + hashed("CONNECT:a:1"))}"' in said
    assert f"algorithm={algorithm}" in said and "Circle" not in said


def _md5(text: str) -> str:
    import hashlib

    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


# --- SOCKS5 ---------------------------------------------------------------------------------------------


def play(talk: socks.Talk, *answers: bytes) -> tuple[bytes, socks.Bound]:
    """Answer every `Hear` with the next of `answers`; return all that was said, and what was granted."""
    said, heard = b"", list(answers)
    step = next(talk)
    while True:
        if isinstance(step, socks.Say):
            said += step.data
            given = b""
        else:
            given = heard.pop(0)
            assert len(given) == step.size
        try:
            step = talk.send(given)
        except StopIteration as end:
            assert not heard
            return said, end.value


GRANTED = (b"\5\0\0\1", bytes([192, 0, 2, 8, 0x10, 0]))


def test_connect_without_login() -> None:
    said, bound = play(socks.dialogue(socks.CONNECT, "a.example", 443, None), b"\5\0", *GRANTED)
    assert said == b"\5\1\0" + b"\5\1\0\3\x09a.example\x01\xbb"
    assert bound == socks.Bound(HERE, 4096)


def test_login_by_password() -> None:
    said, _ = play(socks.dialogue(socks.CONNECT, "192.0.2.1", 1, MUFASA), b"\5\2", b"\1\0", *GRANTED)
    assert said == b"\5\2\0\2" + b"\1\6Mufasa\x0eCircle of Life" + b"\5\1\0\1\xc0\0\2\1\0\1"


def test_a_proxy_may_want_no_login_after_all() -> None:
    said, _ = play(socks.dialogue(socks.CONNECT, "::1", 1, MUFASA), b"\5\0", *GRANTED)
    assert b"Circle" not in said


@pytest.mark.parametrize(
    ("credentials", "answers", "problem"),
    [
        (None, [b"\4\0"], "does not speak SOCKS5"),
        (None, [b"\5\xff"], "holds none"),
        (MUFASA, [b"\5\xff"], "another login"),
        (None, [b"\5\2"], "was not offered"),
        (None, [b"\5\1"], "was not offered"),
        (MUFASA, [b"\5\1"], "was not offered"),
        (MUFASA, [b"\5\2", b"\1\1"], "refused user name and password"),
        (None, [b"\5\0", b"\4\0\0\1"], "does not speak SOCKS5"),
        (None, [b"\5\0", b"\5\2\0\1"], "its rules forbid it"),
        (None, [b"\5\0", b"\5\x63\0\1"], "error 99"),
        (None, [b"\5\0", b"\5\0\0\2"], "an address of an unknown kind"),
    ],
)
def test_refusals(credentials: Credentials | None, answers: list[bytes], problem: str) -> None:
    with pytest.raises(PeerError, match=problem):
        play(socks.dialogue(socks.CONNECT, "192.0.2.1", 1, credentials), *answers)


def test_a_refused_login_is_told_from_other_refusals() -> None:
    with pytest.raises(LoginRefused):
        play(socks.dialogue(socks.CONNECT, "192.0.2.1", 1, MUFASA), b"\5\2", b"\1\1")


def test_a_reply_with_a_name_is_read_whole_and_not_looked_up() -> None:
    _, bound = play(socks.dialogue(socks.CONNECT, "192.0.2.1", 1, None), b"\5\0", b"\5\0\0\3", b"\xff", bytes(257))
    assert bound == socks.Bound(None, 0)
    with pytest.raises(PeerError, match="by a host name"):
        socks.relay_of(bound, HERE)


@pytest.mark.parametrize("credentials", [Credentials("", Secret(b"x")), Credentials("x" * 256, Secret(b"x")),
                                         Credentials("x", Secret(b""))])  # fmt: skip
def test_credentials_that_do_not_fit(credentials: Credentials) -> None:
    with pytest.raises(PeerError, match="at most 255"):
        play(socks.dialogue(socks.CONNECT, "192.0.2.1", 1, credentials), b"\5\2")


def test_the_relay_is_the_proxy_or_nobody() -> None:
    assert socks.relay_of(socks.Bound(IPv4Address(0), 7), HERE) == (HERE, 7)
    assert socks.relay_of(socks.Bound(HERE, 7), HERE) == (HERE, 7)
    six = IPv6Address("2001:db8::8")
    assert socks.relay_of(socks.Bound(IPv6Address("::"), 7), six) == (six, 7)
    for bound in (socks.Bound(IPv4Address("10.0.0.1"), 7), socks.Bound(six, 7), socks.Bound(HERE, 0)):
        with pytest.raises(PeerError):
            socks.relay_of(bound, HERE)


@pytest.mark.parametrize(
    ("host", "encoded"),
    [
        ("192.0.2.1", b"\1\xc0\0\2\1\0\7"),
        ("2001:db8::1", b"\4" + IPv6Address("2001:db8::1").packed + b"\0\7"),
        ("a.b", b"\3\3a.b\0\7"),
    ],
)
def test_addresses(host: str, encoded: bytes) -> None:
    assert socks.encode_address(host, 7) == encoded
