# SPDX-License-Identifier: BSD-2-Clause
"""The client machine: remotes, back-off, time limits, credentials, what servers say, and every way to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, HttpProxy, PeerPolicy, Proto, Proxy, Remote, SocksProxy, Timers
from qubes_miragevpn.dataplane.inband import OCC_EXIT
from qubes_miragevpn.dataplane.interface import PeerExited, PeerSilent
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.client import Client
from qubes_miragevpn.protocol.remotes import LOOK_AGAIN
from tests.interop.pki import Pki
from tests.pair.link import LATENCY
from tests.pair.test_handshake import WRAPS, connected, transfer
from tests.pair.world import SERVER_AT, Side, World, client_config, server_config, up

CONNECT, DISCONNECT = c.UserCommand(c.Command.CONNECT), c.UserCommand(c.Command.DISCONNECT)
A, B = ip_address("192.0.2.11"), ip_address("192.0.2.12")
ASKING = {"auth_user_pass": True, "credentials": Credentials("user", Secret(b"wrong"))}


def machine(config: Any) -> Client:
    return Client(config, entropy=lambda n: b"\x07" * n, unix_time=lambda: 1_700_000_000)


def brief(effects: list[c.Effect]) -> list[str]:
    """Effects in a few words; notices and packets are left out."""
    lines = []
    for effect in effects:
        match effect:
            case c.Resolve(request, host, _):
                lines.append(f"resolve {request} {host}")
            case c.OpenTransport(link, proto, address, _):
                lines.append(f"open {link} {proto.value} {address}")
            case c.CloseTransport(link):
                lines.append(f"close {link}")
            case c.Stop(kind, _):
                lines.append(f"stop {kind.value}")
            case c.Notify() | c.Transmit() | c.Drop():
                continue
            case _:
                lines.append(type(effect).__name__)
    return lines


class Play:
    """A client without a server, and its clock."""

    def __init__(self, config: Any) -> None:
        self.client, self.now, self.all = machine(config), 100.0, []  # type: ignore[var-annotated]

    def do(self, event: c.Event) -> list[str]:
        effects = self.client.handle(event, self.now)
        self.all += effects
        return brief(effects)

    def wait(self) -> tuple[float, list[str]]:
        """Let the deadline come; returns how long that took, and what came of it."""
        deadline = self.client.next_deadline()
        assert deadline is not None
        began, self.now = self.now, max(self.now, deadline)
        return self.now - began, self.do(c.TimerExpired())


# --- remotes and time


def test_every_remote_is_tried_and_the_pause_grows(pki: Pki) -> None:
    remotes = (Remote("vpn.example", 1194, Proto.UDP), Remote(str(B), 443, Proto.TCP))
    play = Play(client_config(pki, remotes=remotes))
    assert play.do(CONNECT) == ["resolve 1 vpn.example"]
    assert play.do(c.NameResolved(1, (A,))) == [f"open 2 udp {A}"]
    assert play.do(c.TransportDown(2, "no route")) == ["close 2", f"open 3 tcp {B}"]
    assert play.do(c.TransportDown(3, "refused")) == ["close 3"]
    assert play.wait() == (1.0, ["resolve 4 vpn.example"])
    assert play.do(c.ResolutionFailed(4, "no such \x1b name")) == [f"open 5 tcp {B}"]
    assert play.do(c.TransportDown(5, "refused")) == ["close 5"]
    assert play.wait() == (2.0, ["resolve 6 vpn.example"])


def test_connect_retry_is_the_first_pause_and_the_longest(pki: Pki) -> None:
    play = Play(client_config(pki, timers=Timers(connect_retry=3, connect_retry_max_pause=10)))
    play.do(CONNECT)
    pauses = []
    for link in range(1, 6):
        assert play.do(c.TransportDown(link, "refused")) == [f"close {link}"]
        pauses.append(play.wait()[0])
    assert pauses == [3, 6, 10, 10, 10]


def test_a_name_that_cannot_be_resolved_is_looked_up_on_every_pass(pki: Pki) -> None:
    """As ``resolv-retry infinite``: a machine that wakes up has no resolver for a while."""
    play = Play(client_config(pki, remotes=(Remote("vpn.example", 1194, Proto.UDP),)))
    assert play.do(CONNECT) == ["resolve 1 vpn.example"]
    for request in range(1, 30):
        assert play.do(c.ResolutionFailed(request, "no resolver")) == []
        assert play.wait()[1] == [f"resolve {request + 1} vpn.example"]


@pytest.mark.parametrize(("seconds", "looks"), [(4, 1), (5, 1), (6, 2), (12, 3)])
def test_resolv_retry_looks_a_name_up_again_before_the_next_remote(pki: Pki, seconds: int, looks: int) -> None:
    """openvpn 2.6's log shows one look-up for 4 and three, five seconds apart, for 12."""
    remotes = (Remote("vpn.example", 1194, Proto.UDP), Remote(str(B), 1, Proto.UDP))
    play = Play(client_config(pki, remotes=remotes, timers=Timers(resolv_retry=seconds)))
    said = play.do(CONNECT)
    request = 1
    for _ in range(2):  # on the second pass they are counted anew
        for _ in range(looks - 1):
            assert said == [f"resolve {request} vpn.example"]
            assert play.do(c.ResolutionFailed(request, "no resolver")) == []
            waited, said = play.wait()
            request += 1
            assert waited == LOOK_AGAIN
        assert said == [f"resolve {request} vpn.example"]
        link = request + 1
        assert play.do(c.ResolutionFailed(request, "no resolver")) == [f"open {link} udp {B}"]
        assert play.do(c.TransportDown(link, "refused")) == [f"close {link}"]
        said, request = play.wait()[1], link + 1


def test_stale_links_and_answers_are_ignored(pki: Pki) -> None:
    play = Play(client_config(pki, remotes=(Remote("vpn.example", 1194, Proto.UDP), Remote(str(B), 1, Proto.UDP))))
    play.do(CONNECT)
    assert play.do(c.NameResolved(9, (A,))) == [] == play.do(c.ResolutionFailed(0, "x"))
    play.do(c.NameResolved(1, (A,)))
    for event in (c.NameResolved(1, (B,)), c.TransportDown(1, "x"), c.TransportUp(1, (str(A), 1)), CONNECT):
        assert play.do(event) == []
    play.do(c.TransportUp(2, (str(A), 1194)))
    for event in (c.TransportUp(2, (str(A), 1194)), c.TransportDown(3, "x"), c.PacketReceived(3, (str(A), 1194), b"x")):
        assert play.do(event) == []
    assert play.do(c.TransportDown(2, "x")) == ["close 2", f"open 3 udp {B}"]


def test_a_transport_that_does_not_open_is_given_up_in_time(pki: Pki) -> None:
    play = Play(client_config(pki, timers=Timers(connect_timeout=20)))
    play.do(CONNECT)
    assert play.wait() == (20.0, ["close 1"])


@pytest.mark.parametrize(
    ("timers", "seconds", "says"),
    [
        (Timers(connect_timeout=20, hand_window=60), 20, "no answer within 20 s"),
        (Timers(connect_timeout=120, hand_window=60), 60, "no TLS handshake within 60 s"),
    ],
)
def test_a_silent_server_is_given_up_with_a_hint_at_the_key(
    pki: Pki, timers: Timers, seconds: float, says: str
) -> None:
    play = Play(client_config(pki, timers=timers))
    play.do(CONNECT)
    play.do(c.TransportUp(1, SERVER_AT))
    began = play.now
    while not (done := play.wait()[1]):
        assert play.now <= began + seconds
    assert done == ["close 1"] and play.now == began + seconds
    [text] = [effect.text for effect in play.all if isinstance(effect, c.Notify) and "within" in effect.text]
    assert says in text and "tls-auth or tls-crypt key is another" in text


def test_it_gives_up_after_connect_retry_max(pki: Pki) -> None:
    play = Play(client_config(pki, timers=Timers(connect_retry_max=2)))
    play.do(CONNECT)
    play.do(c.TransportDown(1, "x"))
    play.wait()
    assert play.do(c.TransportDown(2, "x")) == ["close 2", "stop connection"]
    assert play.do(CONNECT) == [] and play.client.next_deadline() is None


def test_a_wrong_static_key_shows_in_the_hint(pki: Pki) -> None:
    world = World(server_config(pki, WRAPS["tls-crypt"][1]))
    other = replace(WRAPS["tls-crypt"][0], key=Secret(bytes(256)))  # type: ignore[type-var]
    client = world.client(client_config(pki, other))
    assert not world.run(61, lambda: up(client))
    assert any("key is another" in notice.text for notice in client.effects(c.Notify))
    assert not world.server.sent, "the server is silent"


@pytest.mark.parametrize(
    ("when", "expected"),
    [("asking", ["stop asked"]), ("opening", ["close 1", "stop asked"]), ("talking", ["close 1", "stop asked"])],
)
def test_disconnect_in_every_state(pki: Pki, when: str, expected: list[str]) -> None:
    play = Play(client_config(pki, auth_user_pass=when == "asking"))
    play.do(CONNECT)
    if when == "talking":
        play.do(c.TransportUp(1, SERVER_AT))
    assert play.do(DISCONNECT) == expected
    assert play.do(CONNECT) == [] and play.client.next_deadline() is None


# --- credentials


def test_credentials_are_asked_for_and_refused(pki: Pki) -> None:
    play = Play(client_config(pki, auth_user_pass=True))
    assert play.do(CONNECT) == ["AskCredentials"] and play.client.next_deadline() is None
    assert play.do(c.CredentialsRefused("nobody\nhere")) == ["stop credentials"]


@pytest.mark.parametrize(
    ("name", "password"), [("u" * 128, b"p"), ("u", b"p" * 128), ("u\0", b"p"), ("ä" * 70_000, b"")]
)
def test_credentials_that_cannot_be_said_are_asked_for_again(pki: Pki, name: str, password: bytes) -> None:
    play = Play(client_config(pki, auth_user_pass=True))
    play.do(CONNECT)
    assert play.do(c.CredentialsGiven(name, Secret(password))) == ["AskCredentials"]
    assert play.do(c.CredentialsGiven("u" * 127, Secret(b"p" * 127)))[0].startswith("open")
    with pytest.raises(ConfigError):
        machine(client_config(pki, auth_user_pass=True, credentials=Credentials(name, Secret(password))))


def test_nobody_learns_the_credentials_from_what_is_shown(pki: Pki) -> None:
    world = World(server_config(pki))
    client = world.client(client_config(pki, auth_user_pass=True, credentials=Credentials("u", Secret(b"hunter2"))))
    connected(world, client)
    assert "hunter2" not in repr(client.seen) + repr(world.server.seen)


# --- a proxy's login

WEB = HttpProxy(str(B), 3128, methods=frozenset({"basic"}), eager=True, asks=True)
AUTO = HttpProxy(str(B), 3128, methods=frozenset({"basic", "digest"}), asks=True)
RIGHT = Credentials("alice", Secret(b"open sesame"))


def behind(pki: Pki, proxy: Proxy, **config: Any) -> Play:
    return Play(client_config(pki, remotes=(Remote(str(A), 443, Proto.TCP, proxy=proxy),), **config))


def shown(play: Play) -> list[Credentials | None]:
    """What the proxies were shown, one transport after the other."""
    return [each.proxy.credentials for each in play.all if isinstance(each, c.OpenTransport) and each.proxy is not None]


def given(credentials: Credentials = RIGHT) -> c.CredentialsGiven:
    return c.CredentialsGiven(credentials.username, credentials.password)


@pytest.mark.parametrize("proxy", [WEB, SocksProxy(str(B), 1080, asks=True)])
def test_a_proxy_that_is_told_at_once_is_asked_for_before(pki: Pki, proxy: Proxy) -> None:
    play = behind(pki, proxy)
    assert play.do(CONNECT) == ["AskCredentials"] and play.client.next_deadline() is None
    kind = "HTTP" if proxy is WEB else "SOCKS"
    assert play.all[-1] == c.AskCredentials("", f"the {kind} proxy {B} port {proxy.port}")
    assert play.do(given()) == [f"open 1 tcp {B}"] and shown(play) == [RIGHT]
    assert "sesame" not in repr(play.all)


def test_auto_asks_when_the_proxy_does(pki: Pki) -> None:
    play = behind(pki, AUTO)
    assert play.do(CONNECT) == [f"open 1 tcp {B}"]
    assert play.do(c.TransportDown(1, "wants a login", login=True)) == ["close 1", "AskCredentials"]
    assert play.do(given()) == [f"open 2 tcp {B}"] and shown(play) == [None, RIGHT]


@pytest.mark.parametrize(("nocache", "then"), [(False, [f"open 2 tcp {B}"]), (True, ["AskCredentials"])])
def test_what_was_said_is_remembered_unless_it_shall_not_be(pki: Pki, nocache: bool, then: list[str]) -> None:
    play = behind(pki, WEB, auth_nocache=nocache)
    play.do(CONNECT)
    play.do(given())
    play.do(c.TransportDown(1, "refused: 503"))
    assert play.wait()[1] == then


@pytest.mark.parametrize(
    ("retry", "then"),
    [("interact", ["close 1", "AskCredentials"]), ("none", ["close 1", "stop credentials"]),
     ("nointeract", ["close 1", "stop credentials"])],
)  # fmt: skip
@pytest.mark.parametrize("nocache", [False, True])
def test_a_wrong_answer(pki: Pki, retry: str, then: list[str], nocache: bool) -> None:
    play = behind(pki, WEB, auth_retry=retry, auth_nocache=nocache)
    play.do(CONNECT)
    play.do(given())
    assert play.do(c.TransportDown(1, "the proxy refused", login=True)) == then
    if retry == "interact":
        assert "refused" in play.all[-1].again
        right = Credentials("alice", Secret(b"other"))
        assert play.do(given(right)) == [f"open 2 tcp {B}"] and shown(play)[-1] == right


def test_nobody_is_there_for_the_proxy(pki: Pki) -> None:
    play = behind(pki, WEB)
    play.do(CONNECT)
    assert play.do(c.CredentialsRefused("nobody\nhere")) == ["stop credentials"]
    assert f"for the HTTP proxy {B}" in play.all[-1].reason and "\n" not in play.all[-1].reason


def test_a_proxy_whose_login_the_profile_holds_asks_nobody(pki: Pki) -> None:
    play = behind(pki, HttpProxy(str(B), 1, RIGHT, frozenset({"basic"}), eager=True))
    play.do(CONNECT)
    assert "AskCredentials" not in play.do(c.TransportDown(1, "the proxy refused", login=True))


@pytest.mark.parametrize(
    ("name", "password"),
    [("", b"x"), ("a", b""), ("a" * 256, b"x"), ("a", b"x" * 256), ("a:b", b"x"), ("a\r\nX", b"x"), ("a", b"\0")],
)
def test_what_no_proxy_could_be_told_is_asked_for_again(pki: Pki, name: str, password: bytes) -> None:
    play = behind(pki, WEB)
    play.do(CONNECT)
    assert play.do(c.CredentialsGiven(name, Secret(password))) == ["AskCredentials"] and play.all[-1].again
    assert play.do(given()) == [f"open 1 tcp {B}"]


def test_each_proxy_has_its_own_login_and_the_server_another(pki: Pki) -> None:
    other = SocksProxy(str(B), 3128, asks=True)
    remotes = tuple(Remote(str(A), 443, Proto.TCP, proxy=proxy) for proxy in (WEB, other))
    play = Play(client_config(pki, remotes=remotes, auth_user_pass=True))
    assert play.do(CONNECT) == ["AskCredentials"] and not play.all[-1].proxy
    assert play.do(c.CredentialsGiven("me", Secret(b"mine"))) == ["AskCredentials"] and "HTTP" in play.all[-1].proxy
    assert play.do(given()) == [f"open 1 tcp {B}"]
    assert play.do(c.TransportDown(1, "no"))[-1] == "AskCredentials" and "SOCKS" in play.all[-1].proxy


# --- what a server says


def saying(
    pki: Pki, *messages: str, early: bool = False, push: tuple[str, ...] = (), **config: Any
) -> tuple[World, Side]:
    """A world whose server says `messages` once the tunnel is up (or in place of its PUSH_REPLY)."""
    world = World(server_config(pki, push=push or ("ping 10", "ping-restart 60")))
    if early:
        speak_instead(world, messages)
        return world, world.client(client_config(pki, **config))
    client = world.client(client_config(pki, **config))
    connected(world, client)
    for message in messages:
        say(world, message)
    world.run(1)
    return world, client


def say(world: World, message: str) -> None:
    server: Any = world.server.machine
    for number in [peer.number for peer in server._peers]:
        server._out = []
        server._with(number, lambda peer: peer.session.send_message(message, world.now), world.now)
        for effect in server._out:
            world.server._apply(effect)


def speak_instead(world: World, messages: tuple[str, ...]) -> None:
    server: Any = world.server.machine
    push: Callable[..., None] = server._serve

    spoken_to = set()

    def speak(peer: Any, now: float) -> None:
        if peer.number in spoken_to:
            return
        spoken_to.add(peer.number)
        for message in messages:
            if message == "(push)":
                push(peer, now)
            else:
                peer.session.send_message(message, now)

    server._serve = speak


@pytest.mark.parametrize(
    ("retry", "config", "expected"),
    [
        ("none", ASKING, "stop authentication"),
        ("none", {}, "stop authentication"),  # a certificate that the server does not want
        ("interact", {}, "stop authentication"),
        ("nointeract", ASKING, "open 2 udp 198.51.100.1"),
        ("interact", ASKING, "AskCredentials"),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_auth_failed_in_each_mode(pki: Pki, retry: str, config: dict[str, Any], expected: str, early: bool) -> None:
    world, client = saying(pki, "AUTH_FAILED,bad password", early=early, auth_retry=retry, **config)
    assert world.run(10, lambda: expected in brief(client.seen)), brief(client.seen)
    assert any("bad password" in str(effect) for effect in client.seen)


@pytest.mark.parametrize("passes", [0, 1])
def test_new_credentials_go_to_the_server_that_asked(pki: Pki, passes: int) -> None:
    remotes = (Remote(SERVER_AT[0], SERVER_AT[1], Proto.UDP), Remote(str(B), 1194, Proto.UDP))
    world, client = saying(
        pki,
        "AUTH_FAILED",
        early=True,
        auth_retry="interact",
        remotes=remotes,
        timers=Timers(connect_retry_max=passes),
        **ASKING,
    )
    assert world.run(10, lambda: bool(client.effects(c.AskCredentials)))
    client.event(c.CredentialsGiven("user", Secret(b"right")))
    assert brief(client.seen)[-1] == f"open 2 udp {SERVER_AT[0]}"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("RESTART", ["TunnelDown", "RemovePeer", "close 1"]),
        ("RESTART,[N]next", ["TunnelDown", "RemovePeer", "close 1"]),
        ("EXIT", ["TunnelDown", "RemovePeer", "close 1"]),
        ("HALT,go away", ["TunnelDown", "RemovePeer", "close 1", "stop connection"]),
    ],
)
def test_a_server_ends_the_connection(pki: Pki, message: str, expected: list[str]) -> None:
    _, client = saying(pki, message)
    lines = brief(client.seen)
    assert lines[lines.index("TunnelUp") + 1 :][: len(expected)] == expected


@pytest.mark.parametrize(
    "message",
    ["INFO_PRE,OPEN_URL:file:///etc/passwd", "AUTH_PENDING,timeout 2147483648", "PUSH_REQUEST",
     "PUSH_REPLY,route 0.0.0.0", "PUSH_UPDATE,?x", "x" * 5000, "\x1b[2J", "a\r\nb",
     "PUSH_REPLY," + "push-continuation 2," * 50, ""],
)  # fmt: skip
def test_a_server_says_what_has_no_effect(pki: Pki, message: str) -> None:
    world, client = saying(pki, message, message)
    assert up(client)
    transfer(world, client)
    for effect in client.seen:
        if isinstance(effect, c.Notify | c.Drop):
            assert str(effect).isprintable() and len(str(effect)) < 400


def test_a_push_in_parts(pki: Pki) -> None:
    routes = tuple(f"route 172.16.{n}.0 255.255.255.0" for n in range(120))
    _, client = saying(pki, push=routes)
    assert len(client.effects(c.TunnelUp)[0].settings.routes) == 120


def test_a_push_without_end_is_ended(pki: Pki) -> None:
    part = "PUSH_REPLY," + ",".join(["route 172.16.0.0 255.255.255.0"] * 25) + ",push-continuation 2"
    world, client = saying(pki, *[part] * 66, early=True)
    assert not world.run(20, lambda: up(client))
    assert any("pushes without end" in str(effect) for effect in client.seen)


def test_a_push_that_waits_to_be_asked_for(pki: Pki) -> None:
    world = World(server_config(pki))
    server: Any = world.server.machine
    promote = server._promote

    def forget_bit(peer: Any, now: float) -> None:
        peer.can = replace(peer.can, proto=int(peer.can.proto) & ~4)
        promote(peer, now)

    server._promote = forget_bit
    began = world.now
    client = world.client(client_config(pki))
    connected(world, client)
    assert world.now - began == pytest.approx(8 * LATENCY), "one round trip more, and nothing is waited for"


def test_a_server_that_never_pushes_is_given_up(pki: Pki) -> None:
    world, client = saying(pki, early=True)
    assert not world.run(59, lambda: "close 1" in brief(client.seen))
    assert world.run(2, lambda: "close 1" in brief(client.seen))
    assert any("pushed no settings within 60 s" in str(effect) for effect in client.seen)


@pytest.mark.parametrize(
    "push",
    [
        ("up /bin/sh",), ("plugin x.so",), ("script-security 2",), ("setenv LD_PRELOAD /x",), ("ca /etc/passwd",),
        ("remote evil.example",), ("config /etc/shadow",), ("cd /",), ("log /x",), ("management 0.0.0.0 1",),
        ("route-up x",), ("dns server 1 address $(touch /tmp/x)",), ("dhcp-option DNS `id`",),
        ("dhcp-option DOMAIN ;reboot",),
        ("route 10.9.0.0 255.0.255.0",), ("route 198.51.100.1 255.255.255.255",), ("redirect-gateway local",),
        ("setenv-safe \u202e\x9b x",), ("verb 11",), ("'unterminated",),
    ],
)  # fmt: skip
def test_hostile_pushes_have_no_effect_and_are_shown(pki: Pki, push: tuple[str, ...]) -> None:
    world, client = saying(pki, push=push)
    settings = client.effects(c.TunnelUp)[0].settings
    assert settings.routes == () and settings.dns.servers == () and settings.dns.search == () and settings.mtu == 1500
    assert settings.redirect in (None, frozenset())
    for effect in client.seen:
        if isinstance(effect, c.Notify):
            assert effect.text.isascii() and effect.text.isprintable()
    transfer(world, client)


@pytest.mark.parametrize(
    "push",
    ["cipher none", "cipher BF-CBC", "cipher " + "x" * 300, "protocol-flags bogus", "ifconfig x y",
     "auth none,cipher x", "tun-mtu 0", "tun-mtu -1", "tun-mtu 65536", "ifconfig 10.8.0.2 0.0.0.0"],
)  # fmt: skip
def test_pushes_that_the_session_cannot_live_with(pki: Pki, push: str) -> None:
    reply = f"PUSH_REPLY,ifconfig 10.8.0.2 255.255.255.0,topology subnet,{push}"
    world, client = saying(pki, reply, early=True)
    assert not world.run(30, lambda: up(client))
    assert "close 1" in brief(client.seen)


# --- the end of a tunnel


def test_silence_and_exit_of_the_server(pki: Pki) -> None:
    for event in (PeerSilent(0), PeerExited(0)):
        world, client = saying(pki)
        client.event(event)
        assert brief(client.seen)[-3:] == ["TunnelDown", "RemovePeer", "close 1"], "a server that left at once"
        world.run(5)
        assert up(client)
    _, client = saying(pki, push=("ping-exit 60",))
    client.event(PeerSilent(0))
    assert brief(client.seen)[-1] == "stop connection"


def test_disconnect_says_exit(pki: Pki) -> None:
    world, client = saying(pki)
    before = len(client.sent)
    client.event(DISCONNECT)
    assert len(client.sent) > before and not client.effects(c.SendInner)
    world.run(5)
    assert world.server.effects(c.RemovePeer), "the server understood"


def test_disconnect_says_occ_exit_where_exit_is_not_understood(pki: Pki) -> None:
    reply = "PUSH_REPLY,ifconfig 10.8.0.2 255.255.255.0,topology subnet,cipher AES-256-GCM"
    world, client = saying(pki, reply, early=True)
    connected(world, client)
    client.event(DISCONNECT)
    assert client.effects(c.SendInner) == [c.SendInner(0, OCC_EXIT)]


def test_a_server_that_restarts_everybody_is_not_hammered(pki: Pki) -> None:
    """RESTART in a loop: the pause grows, as for a server that is not there."""
    world, client = saying(pki, "(push)", "RESTART", early=True)
    world.run(600)
    assert 5 <= len(client.effects(c.TunnelUp)) <= 12


def test_after_a_short_connection_the_next_remote_has_its_turn(pki: Pki) -> None:
    remotes = (Remote(SERVER_AT[0], SERVER_AT[1], Proto.UDP), Remote(str(B), 1194, Proto.UDP))
    world, client = saying(pki, "RESTART", remotes=remotes)
    world.run(3)
    assert f"open 2 udp {B}" in brief(client.seen)


def test_after_a_lasting_connection_the_same_server_comes_first(pki: Pki) -> None:
    remotes = (Remote(str(B), 1194, Proto.UDP), Remote(SERVER_AT[0], SERVER_AT[1], Proto.UDP))
    world = World(server_config(pki))
    client = world.client(client_config(pki, remotes=remotes, timers=Timers(hand_window=5)))
    connected(world, client)
    world.run(60)
    say(world, "RESTART")
    world.run(1)
    assert brief(client.seen)[-1] != f"open 3 udp {B}" and up(client)


def test_reconnect_begins_again_with_the_same_remote_and_nothing_pulled(pki: Pki) -> None:
    world, client = saying(pki)
    client.event(c.UserCommand(c.Command.RECONNECT))
    assert brief(client.seen)[-4:] == ["TunnelDown", "RemovePeer", "close 1", f"open 2 udp {SERVER_AT[0]}"]
    connected(world, client)
    transfer(world, client)


def test_reconnect_while_a_name_is_looked_up_asks_again(pki: Pki) -> None:
    """The first question may have gone out by an uplink that is no more; its late answer is not taken."""
    play = Play(client_config(pki, remotes=(Remote("vpn.example", 1194, Proto.UDP),)))
    assert play.do(CONNECT) == ["resolve 1 vpn.example"]
    assert play.do(c.UserCommand(c.Command.RECONNECT)) == ["resolve 2 vpn.example"]
    assert play.do(c.NameResolved(1, (A,))) == []
    assert play.do(c.NameResolved(2, (B,))) == [f"open 3 udp {B}"]


def test_reconnect_in_a_pause_begins_at_once_and_makes_the_next_pause_short(pki: Pki) -> None:
    play = Play(client_config(pki, remotes=(Remote(str(B), 1194, Proto.UDP),)))
    play.do(CONNECT)
    for link, pause in ((1, 1.0), (2, 2.0), (3, 4.0)):
        assert play.do(c.TransportDown(link, "no route")) == [f"close {link}"]
        deadline = play.client.next_deadline()
        assert deadline is not None and deadline - play.now == pause
        assert play.wait()[1] == [f"open {link + 1} udp {B}"]
    play.do(c.TransportDown(4, "no route"))
    assert play.do(c.UserCommand(c.Command.RECONNECT)) == [f"open 5 udp {B}"]
    play.do(c.TransportDown(5, "no route"))
    assert play.wait() == (1.0, [f"open 6 udp {B}"])


def test_a_refused_certificate_stops_the_client(pki: Pki) -> None:
    world = World(server_config(pki))
    client = world.client(client_config(pki, peer=PeerPolicy(ca_pem=pki.foreign_ca.encode())))
    assert world.run(10, lambda: "stop authentication" in brief(client.seen))
    [stop] = client.effects(c.Stop)
    assert "certificate refused" in stop.reason and stop.reason.isprintable()
    assert not client.effects(c.TunnelUp) and not world.server.effects(c.AddPeer)


def test_a_refused_certificate_is_not_the_end_while_another_remote_may_do(pki: Pki) -> None:
    remotes = (Remote(SERVER_AT[0], SERVER_AT[1], Proto.UDP), Remote(str(B), 1194, Proto.UDP))
    world = World(server_config(pki))
    client = world.client(client_config(pki, peer=PeerPolicy(ca_pem=pki.foreign_ca.encode()), remotes=remotes))
    world.run(10)
    assert f"open 2 udp {B}" in brief(client.seen)
