# SPDX-License-Identifier: BSD-2-Clause
"""What a session tells its role: the happenings of `Session.drain`; and what a client says of itself to it."""

from __future__ import annotations

from dataclasses import dataclass

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.protocol.wire.keymethod2 import KeyMethod2
from qubes_miragevpn.protocol.wire.messages import Message


@dataclass(frozen=True)
class KeyMaterialReady:
    """Slot `key_id` is established; the role decides the suite and calls `derive`.

    `options` is the peer's string, `peer_info` what a server said of itself (mostly nothing).
    """

    key_id: int
    options: str
    peer_info: str = ""


@dataclass(frozen=True)
class ClientIntroduced:
    """Server only: the client's key method 2 came; the role judges it and calls `answer`."""

    key_id: int
    hello: KeyMethod2


@dataclass(frozen=True)
class MessageReceived:
    """A control message."""

    message: Message


@dataclass(frozen=True)
class UseKey:
    """Send under `key_id` from now on."""

    key_id: int


@dataclass(frozen=True)
class DropKey:
    """Forget `key_id`."""

    key_id: int


@dataclass(frozen=True)
class MessageDropped:
    """A control message that was not well-formed."""

    reason: str


Happening = KeyMaterialReady | ClientIntroduced | MessageReceived | MessageDropped | UseKey | DropKey


@dataclass(frozen=True)
class Introduction:
    """What a client says of itself in key method 2."""

    options: str
    peer_info: str
    username: str
    password: Secret
