# SPDX-License-Identifier: BSD-2-Clause
"""The control socket under its callers: good ones, slow ones, many, and liars."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.qube.rpc import client, control
from qubes_miragevpn.qube.rpc.client import NoService, ServiceRefused, call
from qubes_miragevpn.qube.rpc.control import MAX_CALLERS, ControlServer, Refused
from qubes_miragevpn.qube.rpc.events import MAX_LISTENERS, MAX_WAITING, Hub, TooManyListeners
from qubes_miragevpn.qube.rpc.messages import (
    MAX_REPLY,
    MAX_REQUEST,
    VERBS,
    BadMessage,
    Request,
    parse_reply,
    parse_request,
    render_reply,
    render_request,
)


async def answer(request: Request) -> Any:
    if request.verb == "connect":
        raise Refused("not now")
    if request.verb == "disconnect":
        raise RuntimeError("secret detail")
    return {"verb": request.verb, "name": request.name, "caller": request.caller}


def served(tmp_path: Path, play: Callable[[Path], Coroutine[Any, Any, None]], group: str = "no-such-group") -> None:
    async def run() -> None:
        path = tmp_path / "run" / "control.sock"
        server = ControlServer(path, group, answer)
        await server.start()
        try:
            await play(path)
        finally:
            await server.close()
        assert not path.exists()

    asyncio.run(run())


async def talk(path: Path, data: bytes, *, end: bool = False) -> bytes:
    """Say `data`, return what comes back; a connection that is cut off returns what came before."""
    loop = asyncio.get_running_loop()
    received = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as link:
        await loop.sock_connect(link, str(path))
        with contextlib.suppress(ConnectionError):
            await loop.sock_sendall(link, data)
            if end:
                link.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while piece := await loop.sock_recv(link, 65536):
                received += piece
    return received


def error_of(reply: bytes) -> str:
    ok, text = parse_reply(reply)
    assert not ok
    return str(text)


# --- the language -----------------------------------------------------------------------------------------


VALUES = {"name": "se-1", "to": "se-2", "tunnel": "vpn1", "address": "10.137.0.21", "rollback": True, "release": True}
"""A value for each field."""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb(verb: str) -> None:
    """With all its fields, and with those alone that it needs; nothing that it needs may be missing."""
    row = VERBS[verb]
    for keys in (row.needs, row.needs | row.takes):
        request = Request(verb, **{key: VALUES[key] for key in keys}, caller="work")
        assert parse_request(render_request(request)) == (request, 0)
    for key in row.needs:
        with pytest.raises(BadMessage, match=f"lacks {key}"):
            parse_request(render_request(Request(verb, **{k: VALUES[k] for k in row.needs - {key}})))
    for key in set(VALUES) - row.needs - row.takes:
        with pytest.raises(BadMessage, match="does not go with"):
            parse_request(render_request(Request(verb, **{k: VALUES[k] for k in row.needs | {key}})))
    line = json.dumps({"verb": verb, **{key: VALUES[key] for key in row.needs}, "size": row.payload + 1}).encode()
    with pytest.raises(BadMessage, match="may follow"):
        parse_request(line + b"\n")


def test_what_follows_is_not_printed() -> None:
    request = Request("credentials", "a", payload=b"me\nsecret\n")
    line, _, rest = render_request(request).partition(b"\n")
    assert parse_request(line + b"\n") == (Request("credentials", "a"), 10) and rest == b"me\nsecret\n"
    assert "secret" not in repr(request)


BAD_REQUESTS = {
    "nothing": b"\n",
    "no JSON": b"status\n",
    "no object": b'["status"]\n',
    "no UTF-8": b'{"verb": "\xff"}\n',
    "no verb": b"{}\n",
    "another verb": b'{"verb": "quit"}\n',
    "a verb that is none": b'{"verb": ["status"]}\n',
    "a key more": b'{"verb": "status", "path": "/"}\n',
    "a name too many": b'{"verb": "status", "name": "a"}\n',
    "a name too many, null": b'{"verb": "status", "name": null}\n',
    "no name": b'{"verb": "switch"}\n',
    "no string": b'{"verb": "switch", "name": 1}\n',
    "a path": b'{"verb": "switch", "name": "../a"}\n',
    "a line break": b'{"verb": "switch", "name": "a\\n"}\n',
    "a long name": json.dumps({"verb": "switch", "name": "a" * 65}).encode() + b"\n",
    "bytes where none go": b'{"verb": "status", "size": 1}\n',
    "less than none": b'{"verb": "import", "name": "a", "size": -1}\n',
    "half a byte": b'{"verb": "import", "name": "a", "size": 1.5}\n',
    "true bytes": b'{"verb": "import", "name": "a", "size": true}\n',
    "no tunnel of ours": b'{"verb": "connect", "tunnel": "vpn16"}\n',
    "no address": b'{"verb": "assign", "address": "work", "tunnel": "vpn1"}\n',
    "a scoped address": b'{"verb": "assign", "address": "fe80::1%eth0"}\n',
    "a flag of another kind": b'{"verb": "switch", "name": "a", "rollback": 1}\n',
    "no caller": b'{"verb": "status", "caller": ""}\n',
    "an odd caller": b'{"verb": "status", "caller": "a b"}\n',
    "deep": b'{"verb": ' + b"[" * 2000 + b"\n",
    "long": b'{"verb": "status", "x": "' + b"x" * MAX_REQUEST + b'"}\n',
}


@pytest.mark.parametrize("line", BAD_REQUESTS.values(), ids=list(BAD_REQUESTS))
def test_bad_requests(line: bytes, tmp_path: Path) -> None:
    """Refused by the parser, and over the socket with an answer that repeats nothing of it."""
    with pytest.raises(BadMessage):
        parse_request(line)

    async def play(path: Path) -> None:
        assert error_of(await talk(path, line))
        assert parse_reply(await talk(path, render_request(Request("status"))))[0]

    served(tmp_path, play)


@pytest.mark.parametrize(
    "line",
    [b"", b'{"ok": true}\n', b'{"ok": 1, "result": 2}\n', b'{"ok": false}\n', b"[]\n", b'{"ok": true, "result": 1}'],
)
def test_bad_replies(line: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_reply(line)


def test_the_longest_reply_fits() -> None:
    names = {"profiles": ["x" * 64] * 1000, "current": "x" * 64}
    assert parse_reply(render_reply(names)) == (True, names)
    with pytest.raises(BadMessage):
        parse_reply(b'{"ok": true, "result": "' + b"x" * MAX_REPLY + b'"}\n')


# --- the server -------------------------------------------------------------------------------------------


def test_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def play(path: Path) -> None:
        reply = parse_reply(await talk(path, render_request(Request("switch", "a", caller="work"))))
        assert reply == (True, {"verb": "switch", "name": "a", "caller": "work"})
        assert error_of(await talk(path, render_request(Request("connect")))) == "not now"
        assert error_of(await talk(path, render_request(Request("disconnect")))) == "internal error"

    served(tmp_path, play)
    assert "secret detail" in caplog.text


def test_one_request_for_each_connection(tmp_path: Path) -> None:
    async def play(path: Path) -> None:
        reply = await talk(path, render_request(Request("status")) * 3)
        assert reply.count(b"\n") == 1

    served(tmp_path, play)


def test_slow_and_cut_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIME", 0.05)

    async def play(path: Path) -> None:
        assert error_of(await talk(path, b'{"verb": ')) == "no whole request in time"
        assert error_of(await talk(path, b'{"verb": ', end=True)) == "no whole request in time"
        assert error_of(await talk(path, b"")) == "no whole request in time"

    served(tmp_path, play)


def test_what_follows_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes whole, or nothing is done; who sends it slowly holds one of few places, and loses it."""
    monkeypatch.setattr(control, "PAYLOAD_TIME", 0.3)
    seen: list[bytes] = []

    async def noting(request: Request) -> Any:
        seen.append(request.payload)
        return len(request.payload)

    async def play() -> None:
        path = tmp_path / "control.sock"
        server = ControlServer(path, "", noting)
        await server.start()
        whole = render_request(Request("import", "a", payload=b"x" * 300_000))
        assert parse_reply(await talk(path, whole)) == (True, 300_000)
        assert error_of(await talk(path, whole[:1000], end=True)) == "no whole request in time"
        slow = [asyncio.create_task(talk(path, whole[:1000])) for _ in range(control.MAX_PAYLOADS)]
        while server._payloads < control.MAX_PAYLOADS:
            await asyncio.sleep(0)
        assert error_of(await talk(path, whole)) == "too many callers send at once"
        assert parse_reply(await talk(path, render_request(Request("status"))))[0]
        assert {error_of(each) for each in await asyncio.gather(*slow)} == {"no whole request in time"}
        assert parse_reply(await talk(path, whole))[0]
        assert [len(each) for each in seen] == [300_000, 0, 300_000]
        await server.close()

    asyncio.run(play())


def with_events(tmp_path: Path, play: Callable[[Path, Hub], Coroutine[Any, Any, None]]) -> None:
    """A server whose every verb is to listen."""
    hub = Hub()

    async def listening(request: Request) -> Any:
        try:
            return hub.listen([{"n": 0}], owner=request.caller is None)
        except TooManyListeners as error:
            raise Refused(str(error)) from None

    async def run() -> None:
        server = ControlServer(tmp_path / "control.sock", "", listening)
        await server.start()
        try:
            await play(tmp_path / "control.sock", hub)
        finally:
            await server.close()
        assert not hub.listeners

    asyncio.run(run())


async def listener(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(render_request(Request("events")))
    return reader, writer


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def test_listeners_are_told_of_every_change(tmp_path: Path) -> None:
    """Each of them, in order; who leaves makes room; one too many is told so."""

    async def play(path: Path, hub: Hub) -> None:
        pairs = [await listener(path) for _ in range(MAX_LISTENERS)]
        for reader, _ in pairs:
            assert parse_reply(await reader.readline()) == (True, {"n": 0})
        assert error_of(await talk(path, render_request(Request("events")))) == "too many listen already"
        for n in (1, 2, 3):
            hub.publish({"n": n})
        for reader, _ in pairs:
            assert [parse_reply(await reader.readline())[1]["n"] for _ in range(3)] == [1, 2, 3]
        pairs[0][1].close()
        await settled(lambda: len(hub.listeners) == MAX_LISTENERS - 1)
        pairs[1][1].write(b"garbage")
        await settled(lambda: len(hub.listeners) == MAX_LISTENERS - 2)
        reader, writer = await listener(path)
        assert parse_reply(await reader.readline())[0]
        for _, each in (*pairs, (reader, writer)):
            each.close()

    with_events(tmp_path, play)


def test_the_last_place_to_listen_is_dom0s() -> None:
    """A qube that may listen, and takes every place there is, does not keep the owner from seeing what goes on."""
    hub = Hub()
    others = [hub.listen([], owner=False) for _ in range(MAX_LISTENERS - 1)]
    with pytest.raises(TooManyListeners):
        hub.listen([], owner=False)
    hub.listen([], owner=True)
    with pytest.raises(TooManyListeners):
        hub.listen([], owner=True)
    others[0].close()
    with pytest.raises(TooManyListeners):
        hub.listen([], owner=False)


def test_a_listener_that_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody waits for it: neither the one who publishes nor another listener."""
    monkeypatch.setattr(control, "REPLY_TIME", 0.1)

    async def play(path: Path, hub: Hub) -> None:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(path))
            deaf.sendall(render_request(Request("events")))
            reader, writer = await listener(path)
            await settled(lambda: len(hub.listeners) == 2)
            await reader.readline()
            big = {"n": 1, "text": "x" * 50_000}
            for _ in range(30):
                hub.publish(big)
                assert len(await reader.readline()) > 50_000
            await settled(lambda: len(hub.listeners) == 1)
            hub.publish({"n": 2})
            assert parse_reply(await reader.readline()) == (True, {"n": 2})
            for n in range(3 * MAX_WAITING):  # more at once than is kept
                hub.publish({"n": n})
            assert not hub.listeners
            writer.close()

    with_events(tmp_path, play)


def test_a_flood_of_bytes(tmp_path: Path) -> None:
    async def play(path: Path) -> None:
        reply = await talk(path, b"x" * 4_000_000)
        assert not reply or error_of(reply) == "the request is too long"
        assert parse_reply(await talk(path, render_request(Request("status"))))[0]

    served(tmp_path, play)


def test_too_many_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seventeen that say nothing: one is told at once; when the others' time is over, callers are served again."""
    monkeypatch.setattr(control, "REQUEST_TIME", 0.5)

    async def play(path: Path) -> None:
        answers = await asyncio.gather(*(talk(path, b"") for _ in range(MAX_CALLERS + 1)))
        told = sorted(error_of(each) for each in answers)
        assert told == ["no whole request in time"] * MAX_CALLERS + ["too many callers"]
        assert parse_reply(await talk(path, render_request(Request("status"))))[0]

    served(tmp_path, play)


def test_a_caller_that_does_not_read(tmp_path: Path) -> None:
    async def play(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(path))
            link.sendall(render_request(Request("status")))
        assert parse_reply(await talk(path, render_request(Request("status"))))[0]

    served(tmp_path, play)


def test_garbage_of_every_kind(tmp_path: Path) -> None:
    import random

    rng = random.Random(7)

    async def play(path: Path) -> None:
        for _ in range(200):
            data = rng.randbytes(rng.randrange(1, 200)) + b"\n"
            reply = await talk(path, data)
            assert error_of(reply)

    served(tmp_path, play)


# --- the file ---------------------------------------------------------------------------------------------


def test_who_may_connect(tmp_path: Path) -> None:
    async def roots(path: Path) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    async def groups(path: Path) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert path.stat().st_gid == os.getgid(), "its own: no member of the group can be asked for"
        listed = list(struct.iter_unpack("<HHI", os.getxattr(path, "system.posix_acl_access")[4:]))
        assert [(tag, rights) for tag, rights, _ in listed] == [(1, 6), (4, 0), (8, 6), (16, 6), (32, 0)]
        assert listed[2][2] == foreign.gr_gid

    import grp

    foreign = next(each for each in grp.getgrall() if each.gr_gid not in (os.getgid(), *os.getgroups()))
    served(tmp_path, roots)
    served(tmp_path, groups, foreign.gr_name)


def test_a_socket_left_behind_is_replaced_a_service_is_not(tmp_path: Path) -> None:
    async def play(path: Path) -> None:
        with pytest.raises(SystemRefused, match="answers there already"):
            await ControlServer(path, "", answer).start()
        assert parse_reply(await talk(path, render_request(Request("status"))))[0]

    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "run" / "control.sock"))
    served(tmp_path, play)


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(SystemRefused, match="not a socket"):
        asyncio.run(ControlServer(path, "", answer).start())
    assert path.read_text() == "precious"


# --- the caller's side ------------------------------------------------------------------------------------


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Path]:
    """A server on a thread of its own."""
    path = tmp_path / "control.sock"
    ready, end = threading.Event(), threading.Event()

    async def run() -> None:
        server = ControlServer(path, "", answer)
        await server.start()
        ready.set()
        await asyncio.to_thread(end.wait)
        await server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    ready.wait()
    yield path
    end.set()
    thread.join()


def test_the_client(background: Path, tmp_path: Path) -> None:
    assert call(background, Request("status"))["verb"] == "status"
    with pytest.raises(ServiceRefused, match="not now"):
        call(background, Request("connect"))
    with pytest.raises(NoService, match="not running"):
        call(tmp_path / "none", Request("status"))


@pytest.mark.parametrize("reply", [b"", b"{", b"nonsense\n", b"x" * (MAX_REPLY + 70000)])
def test_a_service_that_answers_nonsense(tmp_path: Path, reply: bytes) -> None:
    path = tmp_path / "odd.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            link, _ = listener.accept()
            with link, contextlib.suppress(OSError):
                link.recv(4096)
                link.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(NoService):
            call(path, Request("status"))
        thread.join()


def test_a_service_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.05)
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(NoService):  # bound, but nobody listens
            call(path, Request("status"))
        listener.listen()
        with pytest.raises(NoService, match="does not answer"):
            call(path, Request("status"))
