# SPDX-License-Identifier: BSD-2-Clause
"""What is said inside TLS: key method 2, peer info, control messages, the options string."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Common, Family, NoWrap, PeerPolicy, Proto, TlsAuth, TlsCrypt
from qubes_miragevpn.crypto.kdf import KeySource
from qubes_miragevpn.protocol.wire import keymethod2, occ, peerinfo
from qubes_miragevpn.protocol.wire.authfailed import Refusal
from qubes_miragevpn.protocol.wire.keymethod2 import KeyMethod2
from qubes_miragevpn.protocol.wire.messages import (
    MAX_MESSAGE,
    MAX_MESSAGES,
    PUSH_CHUNK,
    AuthFailed,
    Exit,
    Halt,
    Malformed,
    Other,
    PushReply,
    PushRequest,
    Restart,
    build_push_reply,
    split_record,
)
from qubes_miragevpn.protocol.wire.peerinfo import OUR_PROTO, PeerCan

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "control_channel.json").read_text())
HELLO = KeyMethod2(
    KeySource(Secret(b"p" * 48), b"1" * 32, b"2" * 32), "V4,dev-type tun", "user", Secret(b"pass"), "IV_VER=1\n"
)
REPLY = KeyMethod2(KeySource(Secret(b""), b"3" * 32, b"4" * 32), "V4", "", Secret(b""), "")


# --- key method 2


def test_layout_of_key_method_2() -> None:
    assert keymethod2.encode(HELLO) == (
        b"\0\0\0\0\x02" + b"p" * 48 + b"1" * 32 + b"2" * 32
        + b"\0\x10V4,dev-type tun\0" + b"\0\x05user\0" + b"\0\x05pass\0" + b"\0\x0aIV_VER=1\n\0"
    )  # fmt: skip


def test_both_sides_come_back() -> None:
    assert keymethod2.read(keymethod2.encode(HELLO), from_client=True) == HELLO
    assert keymethod2.read(keymethod2.encode(REPLY), from_client=False) == REPLY


def test_a_truncation_is_refused_or_lacks_whole_strings() -> None:
    encoded = keymethod2.encode(HELLO)
    whole = {5 + 48 + 64, 5 + 48 + 64 + 18, 5 + 48 + 64 + 18 + 7, 5 + 48 + 64 + 18 + 7 + 7}
    for size in range(len(encoded)):
        if size in whole:  # trailing strings may be left out
            assert keymethod2.read(encoded[:size], from_client=True).source == HELLO.source
            continue
        with pytest.raises(PeerError) as caught:
            keymethod2.read(encoded[:size], from_client=True)
        assert caught.value.consequence is Consequence.END_SESSION


def strings(*raw: bytes) -> bytes:
    return b"\0\0\0\0\x02" + b"1" * 64 + b"".join(raw)


@pytest.mark.parametrize(
    "record",
    [
        b"\0\0\0\1\x02" + b"1" * 64,  # the leading word
        b"\0\0\0\0\x00" + b"1" * 64,
        b"\0\0\0\0\x01" + b"1" * 64,
        b"\0\0\0\0\x03" + b"1" * 64,
        strings(b"\0\x03ab"),  # shorter than it says
        strings(b"\xff\xffab\0"),
        strings(b"\0\x02ab"),  # no NUL
        strings(b"\0\x03a\0\0"),  # NUL inside
        strings(b"\x02\x01" + b"a" * 512 + b"\0"),  # options of 513
        strings(b"\0\0", b"\0\x81" + b"u" * 128 + b"\0"),  # user name of 129
        strings(b"\0\0", b"\0\0", b"\0\x81" + b"p" * 128 + b"\0"),
        strings(b"\0\0", b"\x10\0" + b"u" * 4095 + b"\0"),
        strings(b"\0\0", b"\0\0", b"\0\0", b"\x20\x01" + b"i" * 8192 + b"\0"),
        b"",
    ],
)
def test_malformed_key_method_2_ends_the_session(record: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        keymethod2.read(record, from_client=False)
    assert caught.value.consequence is Consequence.END_SESSION


def test_the_longest_strings_are_taken() -> None:
    longest = [b"o" * 511, b"u" * 127, b"p" * 127, b"i" * 8191]
    record = strings(*((len(raw) + 1).to_bytes(2, "big") + raw + b"\0" for raw in longest))
    said = keymethod2.read(record, from_client=False)
    assert [said.options, said.username, said.password.reveal(), said.peer_info] == [
        "o" * 511, "u" * 127, b"p" * 127, "i" * 8191,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fits"),
    [("", True), ("u" * 127, True), ("u" * 128, False), ("ä" * 63, True), ("ä" * 64, False), ("a\0b", False),
     ("\udcff", True), (b"p" * 127, True), (b"p" * 128, False), (b"a\0", False)],
)  # fmt: skip
def test_credentials_that_can_be_said(text: str | bytes, fits: bool) -> None:
    assert keymethod2.credential_fits(text) is fits


def test_bytes_that_are_no_utf8_are_said_as_they_were_typed() -> None:
    typed = b"\xff\xe4".decode("utf-8", "surrogateescape")
    record = keymethod2.encode(KeyMethod2(REPLY.source, "", typed, Secret(b""), ""))
    assert b"\0\x03\xff\xe4\0" in record


def test_a_password_shows_itself_nowhere() -> None:
    assert "pass'" not in repr(HELLO) and "pppp" not in repr(HELLO)


# --- peer info


def test_our_peer_info_says_what_we_do() -> None:
    said = peerinfo.build("1.0", ("AES-256-GCM", "AES-128-GCM", "CHACHA20-POLY1305"))
    lines = said.split("\n")
    proto = 2 + 4 + 8 + 16 + 128 + 256 + 512 + 1024 + 4096
    assert lines[-1] == "" and "IV_NCP=2" in lines and f"IV_PROTO={proto}" in lines
    assert "IV_CIPHERS=AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305" in lines
    assert "IV_SSO=webauth,openurl,crtext" in lines
    assert peerinfo.parse(said) == PeerCan(int(OUR_PROTO), ("AES-256-GCM", "AES-128-GCM", "CHACHA20-POLY1305"), True)


def test_ncp_2_promises_both_gcm_suites() -> None:
    assert "IV_NCP" not in peerinfo.build("1.0", ("AES-256-GCM", "CHACHA20-POLY1305"))


@pytest.mark.parametrize(("text", "ciphers"), VECTORS["ncp"]["peer_ciphers"])
def test_published_cipher_lists(text: str, ciphers: list[str]) -> None:
    assert list(peerinfo.parse(text).ciphers) == ciphers


@pytest.mark.parametrize(
    "value", ["", "-1", "0x1e", " 6", "6 ", "6.0", "99999999999", "1" * 5000, "٣", "²", "+6", "six"]
)
def test_a_number_that_is_none_counts_as_not_said(value: str) -> None:
    can = peerinfo.parse(f"IV_PROTO={value}\nIV_MTU={value}\n")
    assert (can.proto, can.mtu) == (0, False)


def test_the_first_of_two_counts() -> None:
    assert peerinfo.parse("IV_PROTO=2\nIV_PROTO=142\n").proto == 2


@pytest.mark.parametrize(
    "junk", ["=" * 5000, "\n" * 8000, "no equals sign", "\0\r\n", "=\n==\n", "IV_CIPHERS=" + ":" * 8000]
)
def test_junk_says_nothing(junk: str) -> None:
    assert peerinfo.parse(junk) == PeerCan(0, (), False)


def test_lines_and_ciphers_beyond_their_bound_are_not_read() -> None:
    assert peerinfo.parse("x=y\n" * 1500 + "IV_PROTO=2\n").proto == 0
    assert len(peerinfo.parse("IV_CIPHERS=" + ":".join(map(str, range(1000)))).ciphers) == 32


# --- control messages


def test_published_control_strings() -> None:
    vector = VECTORS["control_strings"]
    found = split_record(vector["record"].encode())
    assert [item.text for item in found if isinstance(item, Other)] == vector["messages"]
    assert sum(isinstance(item, Malformed) for item in found) == vector["malformed"]
    assert [type(item) for item in split_record(vector["without_nul"].encode())] == [Malformed]


MESSAGES: list[tuple[bytes, Any]] = [
    (b"PUSH_REQUEST", PushRequest()),
    (b"PUSH_REPLY", PushReply((), False)),
    (b"PUSH_REPLY,", PushReply((), False)),
    (b"PUSH_REPLY,route 1.2.3.4,ping 10", PushReply(("route 1.2.3.4", "ping 10"), False)),
    (b"PUSH_REPLY,ping 10,push-continuation 2", PushReply(("ping 10",), True)),
    (b"PUSH_REPLY,ping 10,push-continuation 1", PushReply(("ping 10",), False)),
    (b"PUSH_REPLY,push-continuation 2,push-continuation 1", PushReply((), False)),
    (b"PUSH_REPLY,push-continuation", PushReply((), False)),
    (b"PUSH_REPLY,push-continuations 2", PushReply(("push-continuations 2",), False)),
    (b"AUTH_FAILED", AuthFailed(Refusal(""))),
    (b"AUTH_FAILED,no, go away", AuthFailed(Refusal("no, go away"))),
    (b"RESTART", Restart("")),
    (b"RESTART,[N]why", Restart("why", elsewhere=True)),
    (b"HALT,bye", Halt("bye")),
    (b"EXIT", Exit()),
    (b"INFO_PRE,WEB_AUTH::file:///etc/passwd", Malformed("an address that is not opened: file:///etc/passwd")),
    (b"exit", Other("exit")),
    (b"EXITS", Other("EXITS")),
    (b" EXIT", Other(" EXIT")),
    (b"HALT,\xff\xc2\x9b\xe2\x80\xae", Halt("\\xef\\xbf\\xbd\\xc2\\x9b\\xe2\\x80\\xae")),
]


@pytest.mark.parametrize(("raw", "message"), MESSAGES)
@pytest.mark.parametrize("end", [b"\0", b"\r\n\0", b"\n\0\0"])
def test_messages(raw: bytes, message: Any, end: bytes) -> None:
    assert split_record(raw + end) == [message]


@pytest.mark.parametrize("raw", [b"A\rB", b"A\nB", b"\x1b[31mA", b"A\tB", b"\x7f", b"\x01", b"AUTH_FAILED,\x08"])
def test_control_characters_make_no_message(raw: bytes) -> None:
    [item] = split_record(raw + b"\0")
    assert isinstance(item, Malformed) and item.reason.isprintable() and item.reason.isascii()


def test_neighbours_of_a_malformed_message_count() -> None:
    found = split_record(b"EXIT\0\x1b\0PUSH_REQUEST\0rest")
    assert [type(item) for item in found] == [Exit, Malformed, PushRequest, Malformed]


def test_a_record_is_bounded() -> None:
    assert len(split_record(b"x\0" * MAX_MESSAGES)) == MAX_MESSAGES
    for record in (b"x\0" * (MAX_MESSAGES + 1), b"x" * MAX_MESSAGE + b"\0"):
        with pytest.raises(PeerError):
            split_record(record)
    assert split_record(b"") == [] == split_record(b"\0" * MAX_MESSAGE)


def test_random_records_are_read_or_dropped_and_nothing_else() -> None:
    dice = random.Random(5)
    words = [b"PUSH_REPLY,", b"push-continuation 2", b"AUTH_FAILED", b"\0", b",", b"\xff", b"\r\n", b"\x1b", b"INFO,"]
    for _ in range(3000):
        record = b"".join(dice.choice(words) for _ in range(dice.randrange(12)))
        for item in split_record(record):
            assert item is not None


@pytest.mark.parametrize("count", [0, 1, 30, 60, 400])
def test_a_push_reply_of_any_length_comes_back(count: int) -> None:
    options = tuple(f"route 10.{n // 256}.{n % 256}.0 255.255.255.0" for n in range(count))
    parts = build_push_reply(options)
    assert all(len(part) <= PUSH_CHUNK + len(",push-continuation 2") for part in parts)
    read = [split_record(part.encode() + b"\0")[0] for part in parts]
    assert all(isinstance(part, PushReply) for part in read)
    assert [part.more for part in read] == [True] * (len(parts) - 1) + [False]  # type: ignore[union-attr]
    assert sum((part.options for part in read), ()) == options  # type: ignore[union-attr]


# --- the options string

COMMON = Common(NoWrap(), None, PeerPolicy(ca_pem=b"x"))


def test_options_string() -> None:
    assert occ.build(COMMON, Proto.UDP, Family.IPV4, server=False) == (
        "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4,cipher AES-256-GCM,auth [null-digest],keysize 256,"
        "key-method 2,tls-client"
    )


def test_published_link_mtu() -> None:
    vector = VECTORS["link_mtu"]
    common = Common(NoWrap(), None, PeerPolicy(ca_pem=b"x"), tun_mtu=vector["tun_mtu"])
    for proto, more in ((Proto.UDP, 0), (Proto.TCP, 2)):
        options = occ.build(common, proto, Family.IPV4, server=True)
        assert f",link-mtu {vector['udp'] + more},tun-mtu {vector['tun_mtu']}," in options


@pytest.mark.parametrize(
    ("proto", "family", "server", "text"),
    [
        (Proto.UDP, Family.IPV6, True, "proto UDPv6"),
        (Proto.TCP, Family.IPV4, False, "proto TCPv4_CLIENT"),
        (Proto.TCP, Family.IPV6, True, "proto TCPv6_SERVER"),
    ],
)
def test_transport_in_the_options_string(proto: Proto, family: Family, server: bool, text: str) -> None:
    assert text in occ.build(COMMON, proto, family, server=server).split(",")


def test_tls_auth_is_said_and_tls_crypt_is_not() -> None:
    key = Secret(bytes(256))
    for wrap, said in ((TlsAuth(key, 1, "SHA1"), True), (TlsCrypt(key), False), (NoWrap(), False)):
        options = occ.build(Common(wrap, None, PeerPolicy(ca_pem=b"x")), Proto.UDP, Family.IPV4, server=False)
        assert ("tls-auth" in options.split(",")) is said


@pytest.mark.parametrize(
    ("cipher", "digest", "said"),
    [
        ("AES-256-CBC", "SHA512", "link-mtu 1601,tun-mtu 1500,proto UDPv4,cipher AES-256-CBC,auth SHA512,keysize 256"),
        ("AES-128-CBC", "SHA1", "link-mtu 1557,tun-mtu 1500,proto UDPv4,cipher AES-128-CBC,auth SHA1,keysize 128"),
        ("BF-CBC", "SHA1", "link-mtu 1541,tun-mtu 1500,proto UDPv4,cipher BF-CBC,auth SHA1,keysize 128"),
        ("AES-192-GCM", "SHA1", "cipher AES-192-GCM,auth [null-digest],keysize 192"),
        ("none", "SHA256", "link-mtu 1537,tun-mtu 1500,proto UDPv4,cipher [null-cipher],auth SHA256,keysize 0"),
    ],
)
def test_options_string_of_older_ciphers(cipher: str, digest: str, said: str) -> None:
    common = replace(COMMON, data_ciphers=("AES-256-GCM", cipher), data_ciphers_fallback=cipher, digest=digest)
    assert f"{said},key-method 2" in occ.build(common, Proto.UDP, Family.IPV4, server=False)


@pytest.mark.parametrize(
    ("options", "cipher"),
    [
        ("V4,cipher AES-128-GCM,auth x", "AES-128-GCM"), ("cipher a b", "a b"), ("cipher A,cipher B", "A"),
        ("", None), ("V4,cipher", None), ("V4,cipher ", None), ("V4,xcipher A", None), ("V4,ciphers A", None),
    ],
)  # fmt: skip
def test_cipher_of_an_options_string(options: str, cipher: str | None) -> None:
    assert occ.cipher_of(options) == cipher
