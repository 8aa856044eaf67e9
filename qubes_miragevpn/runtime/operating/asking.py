# SPDX-License-Identifier: BSD-2-Clause
"""Asking a server's management socket who is connected: status format 3, read back into a `Roster`."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.runtime.operating.roster import Member, Roster

TIME = 5.0
MAX_REPLY = 8 << 20  # 16 384 clients of 500 bytes
_FIELDS = 13  # of a CLIENT_LIST line, with its name


def ask(path: Path) -> Roster:
    """Who is connected; raises OSError if nobody answers, or something else than a server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIME)
        sock.connect(str(path))
        sock.sendall(b"status 3\n")  # and no more: openvpn throws an answer away when it reads "exit" behind
        reply = bytearray()
        while not reply.endswith(b"\nEND\r\n") and (piece := sock.recv(1 << 16)):
            reply += piece
            if len(reply) > MAX_REPLY:
                raise OSError(errno.EMSGSIZE, "the answer is too long")
    return read(bytes(reply))


def read(untrusted_reply: bytes) -> Roster:
    """The `Roster` in the answer to `status 3`; raises OSError (EPROTO) if it is none."""
    title, at, members, ended = "", 0, [], False
    for line in untrusted_reply.decode("ascii", "replace").splitlines():
        fields = [printable(field) for field in line.split("\t")]
        match fields:
            case ["TITLE", title]:
                pass
            case ["TIME", _, seconds]:
                at = _number(seconds)
            case ["CLIENT_LIST", *rest] if len(rest) == _FIELDS - 1:
                members.append(_member(rest))
            case ["END"]:
                ended = True
    if not ended or not title:
        raise OSError(errno.EPROTO, "what answers is no server's management socket")
    return Roster(title, at, tuple(members))


def _member(fields: list[str]) -> Member:
    name, endpoint, ipv4, ipv6, received, sent, _, since, username, _, number, cipher = fields
    return Member(
        number=_number(number),
        name=name,
        username="" if username == "UNDEF" else username,
        endpoint=endpoint,
        ipv4=ipv4,
        ipv6=ipv6,
        bytes_in=_number(received),
        bytes_out=_number(sent),
        since=_number(since),
        cipher=cipher,
    )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise OSError(errno.EPROTO, "a number was expected")
    return int(text)
